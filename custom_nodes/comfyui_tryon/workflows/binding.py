"""Finds where a request's images and parameters go in a workflow's graph, and makes the prompt of one request."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..engine.interface import is_link
from ..nodes import NODE_CLASS_MAPPINGS
from ..reply_models import BoundWorkflow
from ..schema import IMAGE_FIELDS
from ..weights.files import Licence
from .advice import no_place
from .dependence import Graph, ancestors, descendants, links
from .format import WorkflowInvalid
from .licences import licence_of
from .outputs import REQUIRED_IMAGES, find_outputs, last_paste, makers, pastes
from .parameters import (
    Seeding,
    as_input,
    as_parameter,
    choices,
    find_parameters,
    inputs_of,
    limits,
    seeding,
    title_of,
    with_defaults,
)

# The image field that each of the pack's input nodes stands for, and the reverse.
FIELDS = {name: field for name, cls in NODE_CLASS_MAPPINGS.items() if (field := getattr(cls, "FIELD", None))}
INPUT_CLASSES = {field: name for name, field in FIELDS.items()}
# Titles by which a core LoadImage stands for an image field.
TITLES = {"target person": "person_image", "reference garment": "garment_image"} | {name: name for name in IMAGE_FIELDS}


@dataclass(frozen=True)
class Workflow:
    """A checked workflow.

    Attributes:
        name: the name of its file without .json.
        version: a hash of the file's content.
        graph: an API prompt in which this pack's own nodes take and give the images.
        inputs: for each image field, ids of the nodes that take it.
        parameters: for each parameter of a request, the (node id, input name) pairs that it replaces.
        limits: for numeric parameters, the least and the greatest value that the nodes take.
        choices: for parameters that are words, those that the nodes take, where they do not take all.
        outputs: ids of the TryOnOutput nodes, in the order of their images in a reply.
        seeding: for each of the outputs, which seeds make its images.
        mask_required: whether a request must send a mask.
        request_independent: ids of the nodes that do not depend on a request's images.
        told: for each of the nodes that are told which request they run for, its hidden inputs.
        licence: of the weights that it loads, if there are any.
        pasted: for each of the outputs, the id of the TryOnPaste that its images come from, if there is one.
    """

    name: str
    version: str
    graph: Graph
    inputs: Mapping[str, Sequence[str]]
    parameters: Mapping[str, Sequence[tuple[str, str]]]
    limits: Mapping[str, tuple[float, float]]
    choices: Mapping[str, Sequence[str]]
    outputs: Sequence[str]
    seeding: Mapping[str, Seeding]
    mask_required: bool
    request_independent: frozenset[str]
    told: Mapping[str, set[str]]
    pasted: Mapping[str, str]
    licence: Licence | None

    @property
    def gives_mask(self) -> bool:
        """Whether the first output has a mask."""
        return is_link(self.graph[self.outputs[0]]["inputs"].get("mask"))

    def image_counts(self, num_images: int) -> list[int]:
        """Returns how many images each of the outputs gives in a run that is asked for `num_images`."""
        counting = {node for node, _ in self.parameters.get("num_images", ())}
        return [num_images if counting & makers(self.graph, node) else 1 for node in self.outputs]

    def keeps_frame(self, framing: str | None) -> bool:
        """Says whether images come in the person image's own frame, where a request asks for `framing`."""
        bound = {node for node, _ in self.parameters.get("framing", ())}
        own = {node: self.graph[node]["inputs"].get("framing", "person") for node in pastes(self.graph)}
        return any((framing if framing and node in bound else value) != "model" for node, value in own.items())

    def description(self, default: bool, problem: str | None = None) -> BoundWorkflow:
        """Describes the workflow for people; `problem` says why a newer version of its file is refused."""
        first = {name: places[0] for name, places in self.parameters.items()}
        return BoundWorkflow(
            name=self.name,
            version=self.version,
            default=default,
            parameters={
                name: as_parameter(key, self.graph[node]["inputs"].get(key)) for name, (node, key) in first.items()
            },
            bound={
                **{field: list(nodes) for field, nodes in self.inputs.items()},
                **{name: [f"{node}.{key}" for node, key in places] for name, places in self.parameters.items()},
            },
            outputs=list(self.outputs),
            seed="used" if "seed" in self.parameters else "none",
            mask="required" if self.mask_required else "optional" if self.inputs.get("mask_image") else "none",
            licence=self.licence.name if self.licence else None,
            commercial_use=self.licence is None or self.licence.commercial_use,
            problem=problem,
        )

    def prompt(self, token: str, values: Mapping[str, Any]) -> dict[str, dict]:
        """Makes the prompt of one request.

        Args:
            token: the token by which the nodes find the request's images.
            values: parameters by name; those left out keep the file's values.
        """
        prompt = copy.deepcopy(dict(self.graph))  # engines change the prompts that they are given
        for node, inputs in self.told.items():
            prompt[node]["inputs"] |= {"token": token, "node": node} if "node" in inputs else {"token": token}
        for place, node in enumerate(self.outputs):
            prompt[node]["inputs"]["place"] = place
        for parameter, value in values.items():
            for node, name in self.parameters.get(parameter, ()):
                prompt[node]["inputs"][name] = as_input(name, value)
        return prompt


def bind(name: str, version: str, graph: Graph, classes: Mapping[str, type] = NODE_CLASS_MAPPINGS) -> Workflow:
    """Finds where a request's images and parameters go in `graph`, a prompt as `to_prompt` returns it.

    `classes` are those of its nodes, by their names.

    Raises:
        WorkflowInvalid: it lacks a person, a garment or an output, or a title's tag cannot be followed.
    """
    inputs = _find_inputs(graph)
    outputs = find_outputs(graph, inputs)
    graph = {**graph, **{node: _own_output(graph[node]) for node in outputs}}
    needed = ancestors(graph, outputs)
    graph = {node: entry for node, entry in graph.items() if node in needed}
    inputs = {field: [node for node in nodes if node in graph] for field, nodes in inputs.items()}
    images = set(chain(*inputs.values()))
    _check_masks(graph, images)
    graph |= {node: _own_input(graph[node], field) for field, nodes in inputs.items() for node in nodes}
    parameters = find_parameters(graph, classes)
    graph = with_defaults(graph, parameters, classes)
    return Workflow(
        name=name,
        version=version,
        graph=graph,
        inputs=inputs,
        parameters=parameters,
        limits=limits(graph, parameters, classes),
        choices=choices(graph, parameters, classes),
        outputs=outputs,
        seeding={node: seeding(graph, makers(graph, node), parameters, classes) for node in outputs},
        mask_required=any(_needs_mask(graph[node]["inputs"]) for node in inputs.get("mask_image", ())),
        request_independent=frozenset(graph) - descendants(graph, images),
        told={node: found for node in graph if "token" in (found := inputs_of(graph[node]["class_type"], "hidden"))},
        pasted={node: paste for node in outputs if (paste := last_paste(graph, node)) is not None},
        licence=licence_of(graph, classes),
    )


def _find_inputs(graph: Graph) -> dict[str, list[str]]:
    """Returns the ids of the nodes that stand for each image field."""
    inputs: dict[str, list[str]] = {}
    for node, entry in graph.items():
        field = FIELDS.get(entry["class_type"])
        if entry["class_type"] == "LoadImage":
            field = TITLES.get(title_of(entry).strip().lower())
        if field:
            inputs.setdefault(field, []).append(node)
    for field in REQUIRED_IMAGES:
        if field not in inputs:
            titles = [title for title, bound in TITLES.items() if bound == field]
            raise WorkflowInvalid(no_place(graph, field, titles, INPUT_CLASSES[field]))
    return inputs


def _own_output(entry: dict) -> dict:
    if entry["class_type"] == "TryOnOutput":
        return entry
    return {**entry, "class_type": "TryOnOutput", "inputs": {"images": entry["inputs"]["images"]}}


def _own_input(entry: dict, field: str) -> dict:
    if entry["class_type"] != "LoadImage":
        return entry
    return {**entry, "class_type": INPUT_CLASSES[field], "inputs": {"image": ""}}


def _needs_mask(inputs: Mapping[str, Any]) -> bool:
    """Whether a node with these inputs takes the mask of a request and has none otherwise."""
    return "automatic" not in inputs and inputs.get("required") is not False


def _check_masks(graph: Graph, images: set[str]) -> None:
    """Refuses a graph that uses the MASK output of a LoadImage: a request's images are decoded without alpha."""
    for node, entry in graph.items():
        for origin, output in links(entry):
            if origin in images and output == 1 and graph[origin]["class_type"] == "LoadImage":
                raise WorkflowInvalid(
                    f"node {node} uses the MASK output of node {origin}, which request images do not have: "
                    "make the mask from its IMAGE output with ImageToMask"
                )

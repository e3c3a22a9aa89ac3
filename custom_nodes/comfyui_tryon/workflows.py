"""Workflow files: reads them, finds where a request's pictures and parameters go, fills them in."""

import copy
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .engine import is_link
from .schema import BoundWorkflow, WorkflowList
from .workflow_format import WorkflowFormatError, to_prompt

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
INPUT_CLASSES = {
    "person_image": "TryOnPersonImage",
    "garment_image": "TryOnGarmentImage",
    "mask_image": "TryOnMaskImage",
}
# Titles by which a core LoadImage stands for an input.
TITLES = {
    "target person": "person_image",
    "person_image": "person_image",
    "reference garment": "garment_image",
    "garment_image": "garment_image",
    "mask_image": "mask_image",
}
# A request's parameters and the names that nodes have for them.
PARAMETERS = {
    "seed": ("seed",),
    "num_inference_steps": ("num_inference_steps", "steps"),
    "guidance_scale": ("guidance_scale", "cfg"),
    "cloth_type": ("cloth_type",),
    "width": ("width",),
    "height": ("height",),
    "num_images": ("batch_size",),
}
TAG = re.compile(r"\[tryon:([^\]]*)\]\s*$")
PICTURE_OUTPUTS = ("SaveImage", "PreviewImage")


class WorkflowInvalid(ValueError):
    """A workflow file cannot serve requests; the message says what to change in it."""


@dataclass(frozen=True)
class Workflow:
    """A checked workflow.

    Attributes:
        name: its file's name without .json.
        version: a hash of the file's content.
        graph: in ComfyUI's API format, its pictures' nodes being this pack's.
        inputs: ids of the nodes for person_image, garment_image and, if any, mask_image.
        parameters: for each parameter of a request, the (node id, input name) pairs that it replaces.
        outputs: ids of the TryOnOutput nodes.
        mask_required: whether it cannot do without the request's mask.
        lasting: ids of the nodes that do not depend on the request's pictures.
    """

    name: str
    version: str
    graph: Mapping[str, dict]
    inputs: Mapping[str, Sequence[str]]
    parameters: Mapping[str, Sequence[tuple[str, str]]]
    outputs: Sequence[str]
    mask_required: bool
    lasting: frozenset[str]

    def prompt(self, token: str, values: Mapping[str, Any]) -> dict[str, dict]:
        """The graph of one request: its pictures by `token`, its parameters by name; those left out stay the file's."""
        prompt = copy.deepcopy(dict(self.graph))
        for node in (*(node for nodes in self.inputs.values() for node in nodes), *self.outputs):
            prompt[node]["inputs"]["token"] = token
        for parameter, value in values.items():
            for node, name in self.parameters.get(parameter, ()):
                prompt[node]["inputs"][name] = value
        return prompt


def read_workflow(path: Path, node_classes: Mapping[str, type]) -> Workflow:
    """Reads and binds a workflow file.

    Raises:
        WorkflowInvalid: it is not a workflow, or lacks a person, a garment or an output.
    """
    data = path.read_bytes()
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WorkflowInvalid(f"it is not JSON ({error})") from None
    try:
        graph = to_prompt(document, node_classes)
    except WorkflowFormatError as error:
        raise WorkflowInvalid(str(error)) from None
    return bind(path.stem, hashlib.sha256(data).hexdigest()[:12], graph, node_classes)


def bind(name: str, version: str, graph: dict[str, dict], node_classes: Mapping[str, type]) -> Workflow:
    """Finds where a request's pictures and parameters go in `graph`, an API prompt.

    Raises:
        WorkflowInvalid
    """
    from .nodes import NODE_CLASS_MAPPINGS as own_classes

    inputs: dict[str, list[str]] = {}
    for node, entry in graph.items():
        field = next((field for field, cls in INPUT_CLASSES.items() if entry["class_type"] == cls), None)
        if field is None and entry["class_type"] == "LoadImage":
            field = TITLES.get(_title(entry).strip().lower())
            if field is not None:
                _replace_load_image(node, graph, field)
        if field is not None:
            inputs.setdefault(field, []).append(node)
    for field in ("person_image", "garment_image"):
        if field not in inputs:
            titles = " or ".join(repr(title) for title, bound in TITLES.items() if bound == field)
            raise WorkflowInvalid(
                f"it has no place for {field}: add a {INPUT_CLASSES[field]} node, or title a LoadImage {titles}"
            )

    from_person, from_garment, from_mask = (
        _descendants(graph, inputs.get(field, ())) for field in ("person_image", "garment_image", "mask_image")
    )
    outputs = [node for node, entry in graph.items() if entry["class_type"] == "TryOnOutput"]
    if not outputs:
        outputs = [
            node
            for node, entry in graph.items()
            if entry["class_type"] in PICTURE_OUTPUTS and node in from_person & from_garment
        ]
        for node in outputs:
            graph[node] = {
                **graph[node],
                "class_type": "TryOnOutput",
                "inputs": {"images": graph[node]["inputs"]["images"]},
            }
    if not outputs:
        raise WorkflowInvalid("it has no output that depends on both pictures: add a TryOnOutput node to the result")
    needed = _ancestors(graph, outputs)
    graph = {node: entry for node, entry in graph.items() if node in needed}

    parameters: dict[str, list[tuple[str, str]]] = {}
    for node, entry in graph.items():
        tag = TAG.search(_title(entry))
        tagged = {part.strip() for part in tag[1].split(",")} if tag else set()
        cls = node_classes.get(entry["class_type"])
        if cls is None:
            raise WorkflowInvalid(f"node {node} is a {entry['class_type']}, which is not installed here")
        declared = {key for kind in ("required", "optional") for key in cls.INPUT_TYPES().get(kind, {})}
        for parameter, names in PARAMETERS.items():
            for key in names:
                mine = entry["class_type"] in own_classes and key in declared
                if (mine or key in tagged) and not is_link(entry["inputs"].get(key)):
                    parameters.setdefault(parameter, []).append((node, key))
    masks = [node for node in inputs.get("mask_image", ()) if node in graph]
    return Workflow(
        name=name,
        version=version,
        graph=graph,
        inputs={field: [node for node in nodes if node in graph] for field, nodes in inputs.items()},
        parameters=parameters,
        outputs=outputs,
        mask_required=any("automatic" not in graph[node]["inputs"] for node in masks),
        lasting=frozenset(graph) - from_person - from_garment - from_mask,
    )


class Workflows:
    """The workflow files of a folder, as they are now; a file that is refused leaves its last good version serving."""

    def __init__(self, folder: Path, node_classes: Mapping[str, type]) -> None:
        self._folder = folder
        self._node_classes = node_classes
        self._read: dict[str, _Read] = {}

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.json") if NAME.fullmatch(path.stem))

    def get(self, name: str) -> Workflow:
        """The workflow called `name`.

        Raises:
            KeyError: there is no such file.
            WorkflowInvalid: it is refused, and there is no earlier good version.
        """
        read = self._current(name)
        if read.workflow is None:
            raise WorkflowInvalid(read.problem)
        return read.workflow

    def describe(self, default: str) -> WorkflowList:
        """All of them, for people; `default` is the name of the one that serves requests that name none."""
        described = []
        for name in self.names():
            read = self._current(name)
            facts = _facts(read.workflow) if read.workflow else {}
            described.append(BoundWorkflow(name=name, default=name == default, problem=read.problem, **facts))
        return WorkflowList(workflows=described)

    def _current(self, name: str) -> "_Read":
        path = self._folder / f"{name}.json"
        try:
            stat = path.stat() if NAME.fullmatch(name) else None
        except OSError:
            stat = None
        if stat is None:
            self._read.pop(name, None)
            raise KeyError(name)
        stamp = (stat.st_mtime_ns, stat.st_size)
        before = self._read.get(name)
        if before and before.stamp == stamp:
            return before
        try:
            workflow, problem = read_workflow(path, self._node_classes), None
            logger.info("Workflow %s: version %s serves", name, workflow.version)
        except (WorkflowInvalid, OSError) as error:
            workflow, problem = before.workflow if before else None, str(error)
            serving = f"version {workflow.version} serves on" if workflow else "it does not serve"
            logger.error("Workflow %s is refused, %s: %s", name, serving, problem)
        self._read[name] = _Read(stamp, workflow, problem)
        return self._read[name]


@dataclass(frozen=True)
class _Read:
    """What came of reading a file: the version that serves, and why the file as it is now does not."""

    stamp: tuple[int, int]
    workflow: Workflow | None
    problem: str | None


def _facts(workflow: Workflow) -> dict[str, Any]:
    first = {name: places[0] for name, places in workflow.parameters.items()}
    return dict(
        version=workflow.version,
        parameters={name: workflow.graph[node]["inputs"].get(key) for name, (node, key) in first.items()},
        bound={
            **{field: list(nodes) for field, nodes in workflow.inputs.items()},
            **{name: [f"{node}.{key}" for node, key in places] for name, places in workflow.parameters.items()},
        },
        outputs=list(workflow.outputs),
        mask="required" if workflow.mask_required else "optional" if workflow.inputs.get("mask_image") else "none",
    )


def _title(entry: dict) -> str:
    return str(entry.get("_meta", {}).get("title", ""))


def _replace_load_image(node: str, graph: dict[str, dict], field: str) -> None:
    for other, entry in graph.items():
        if any(is_link(value) and value == [node, 1] for value in entry["inputs"].values()):
            raise WorkflowInvalid(
                f"node {other} uses the MASK output of node {node}, which a request's picture has not"
            )
    graph[node] = {**graph[node], "class_type": INPUT_CLASSES[field], "inputs": {"image": ""}}


def _links(entry: dict) -> list[str]:
    return [value[0] for value in entry["inputs"].values() if is_link(value)]


def _ancestors(graph: Mapping[str, dict], nodes: Sequence[str]) -> set[str]:
    """`nodes` and all that they depend on."""
    found, pending = set(), list(nodes)
    while pending:
        node = pending.pop()
        if node in found:
            continue
        if node not in graph:
            raise WorkflowInvalid(f"it links to node {node}, which it does not have")
        found.add(node)
        pending += _links(graph[node])
    return found


def _descendants(graph: Mapping[str, dict], nodes: Sequence[str]) -> set[str]:
    """`nodes` and all that depend on them."""
    children: dict[str, list[str]] = {}
    for node, entry in graph.items():
        for link in _links(entry):
            children.setdefault(link, []).append(node)
    found, pending = set(), list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += children.get(node, ())
    return found

"""Finds the nodes of a graph that give the images of a reply, and what these are made from."""

from collections.abc import Mapping, Sequence
from itertools import chain

from ..engine.interface import is_link
from ..schema import IMAGE_FIELDS, TryonRequest
from .advice import no_output
from .dependence import Graph, ancestors, descendants
from .format import WorkflowInvalid

REQUIRED_IMAGES = [field for field in IMAGE_FIELDS if TryonRequest.model_fields[field].is_required()]
IMAGE_OUTPUTS = ("SaveImage", "PreviewImage")


def find_outputs(graph: Graph, inputs: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the ids of the TryOnOutput nodes, or else of the nodes that show an image made from person and garment.

    Previews do not count where an image is saved, and of several nodes that show the same image the first counts. A
    node whose image is not made from both, or that others are made from, comes behind them: it shows no result.
    """
    results = set.intersection(*(descendants(graph, inputs[field]) for field in REQUIRED_IMAGES))
    outputs = [node for node, entry in graph.items() if entry["class_type"] == "TryOnOutput"]
    return _results_first(graph, outputs or _find_shown(graph, results), results)


def _find_shown(graph: Graph, results: set[str]) -> list[str]:
    shown: dict[tuple, list[str]] = {}
    for node, entry in graph.items():
        if entry["class_type"] in IMAGE_OUTPUTS and _origin(graph, node) in results:
            shown.setdefault(tuple(entry["inputs"]["images"]), []).append(node)
    if not shown:
        raise WorkflowInvalid(no_output(graph, results))
    saved = [nodes for nodes in shown.values() if any(graph[node]["class_type"] == "SaveImage" for node in nodes)]
    return [nodes[0] for nodes in saved or shown.values()]


def _results_first(graph: Graph, outputs: Sequence[str], results: set[str]) -> list[str]:
    origins = {node: _origin(graph, node) for node in outputs}
    inner = set(chain.from_iterable(ancestors(graph, [node]) - {node} for node in origins.values() if node))
    return sorted(outputs, key=lambda node: (origins[node] not in results, origins[node] in inner))


def _origin(graph: Graph, output: str) -> str | None:
    """Returns the id of the node that made the image of an output; a TryOnPaste hands on the mask that it is given."""
    image = graph[output]["inputs"].get("images")
    if is_link(image) and image[1] == 1 and graph[image[0]]["class_type"] == "TryOnPaste":
        image = graph[image[0]]["inputs"].get("mask")
    return image[0] if is_link(image) else None


def makers(graph: Graph, output: str) -> set[str]:
    """Returns the ids of all nodes that the image of an output depends on."""
    origin = _origin(graph, output)
    return ancestors(graph, [origin] if origin else [])


def pastes(graph: Graph) -> set[str]:
    """Returns the ids of the TryOnPaste nodes."""
    return {node for node, entry in graph.items() if entry["class_type"] == "TryOnPaste"}


def last_paste(graph: Graph, output: str) -> str | None:
    """Returns the id of the TryOnPaste that an output's images come from; None if there is none, or several."""
    found = pastes(graph) & makers(graph, output)
    earlier = {other for node in found for other in (ancestors(graph, [node]) - {node}) & found}
    last = found - earlier
    return last.pop() if len(last) == 1 else None

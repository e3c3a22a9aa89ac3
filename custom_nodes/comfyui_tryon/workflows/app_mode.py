"""Binds files that the page saved in app mode: what the app names as inputs and outputs is where a request goes.

The page writes `extra.linearData`: `{"inputs": [[node, widget, …], …], "outputs": [node, …]}`. A node is given by its
id, by the one within its subgraph, or by the page's own widget ids (`graph:node:widget`).
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from ..engine.interface import is_link
from ..schema import PARAMETERS
from .binding import FIELDS, TITLES
from .dependence import Graph
from .format import WorkflowInvalid
from .format.checks import TAG
from .outputs import IMAGE_OUTPUTS, REQUIRED_IMAGES

PERSON = re.compile(r"person|people|human|model|body|target|subject|\bm[ae]n\b|wom[ae]n|customer|user|portrait", re.I)
GARMENT = re.compile(r"garment|cloth|outfit|apparel|fashion|shirt|dress|wear|reference|product|\btop\b|item", re.I)
WIDGET_ID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}:([^:]+):.*", re.DOTALL)
REPLACEABLE = {name for names in PARAMETERS.values() for name in names}


def bound_by_app(graph: Graph, app: Any) -> Graph:
    """Returns the graph with the titles that `bind` follows on the nodes that the app names, and its outputs only.

    Of two images the first is the person's, unless their titles say otherwise. Graphs with input nodes of this pack,
    and files without an app, are returned as they are.

    Raises:
        WorkflowInvalid: nothing but the app says which images the request's are, and it does not name two.
    """
    if not isinstance(app, dict) or any(entry["class_type"] in FIELDS for entry in graph.values()):
        return graph
    named = list(_inputs(graph, app.get("inputs")))
    pictures = [node for node, name in named if name == "image" and graph[node]["class_type"] == "LoadImage"]
    titles = _roles(graph, list(dict.fromkeys(pictures)))
    parameters: dict[str, list[str]] = {}
    for node, name in dict.fromkeys(named):
        if name in REPLACEABLE and TAG not in _title(graph, node) and not is_link(graph[node]["inputs"].get(name, [])):
            parameters.setdefault(node, []).append(name)
    for node, names in parameters.items():
        titles[node] = f"{titles.get(node, _title(graph, node))} {TAG} {', '.join(names)}]"
    graph = {
        node: {**entry, "_meta": {"title": titles[node]}} if node in titles else entry for node, entry in graph.items()
    }
    return _with_outputs(graph, app.get("outputs"))


def _inputs(graph: Graph, entries: Any) -> Iterator[tuple[str, str]]:
    """Yields (node id, input name) of the inputs that the app names and the graph has."""
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, list) and len(entry) >= 2 and isinstance(entry[1], str):
            name = entry[1]
            found = _find(graph, entry[0], lambda node, name=name: name in graph[node]["inputs"])
            if found is None:  # the subgraph shows the widget by another name
                found, name = _find(graph, entry[0], lambda node: graph[node]["class_type"] == "LoadImage"), "image"
            if found is not None:
                yield found, name


def _find(graph: Graph, given: Any, wanted: Any = lambda node: True) -> str | None:
    """Returns the node of that id, or the only one wanted that a subgraph node of that id holds, or within one."""
    match = WIDGET_ID.fullmatch(given) if isinstance(given, str) else None
    key = unquote(match[1]) if match else str(given)
    if key in graph and wanted(key):
        return key
    for found in (
        [node for node in graph if node.startswith(f"{key}:") and wanted(node)],
        [node for node in graph if node.endswith(f":{key}") and wanted(node)],
    ):
        if len(found) == 1:
            return found[0]
    return None


def _roles(graph: Graph, pictures: list[str]) -> dict[str, str]:
    """Returns the titles by which `bind` knows the person's and the garment's image, if no titles say so already."""
    titled = {TITLES.get(_title(graph, node).strip().lower()) for node in graph}
    if titled.issuperset(REQUIRED_IMAGES) or not pictures:
        return {}
    masks = [node for node in pictures if len(pictures) == 3 and "mask" in _title(graph, node).lower()]
    pictures = [node for node in pictures if node not in masks]
    if len(pictures) != 2 or len(masks) > 1:
        raise WorkflowInvalid(
            f"its app has {len(pictures) + len(masks)} images as inputs, and a request has the person's and the "
            "garment's: choose these two in the app builder, or title their nodes 'Target Person' and "
            "'Reference Garment'"
        )
    first, second = (_title(graph, node) for node in pictures)
    if _looks(GARMENT, PERSON, first, second):
        pictures.reverse()
    return dict(zip([*pictures, *masks], [*REQUIRED_IMAGES, "mask_image"], strict=False))


def _looks(one: re.Pattern, other: re.Pattern, first: str, second: str) -> bool:
    """Whether the first title is of the kind `one` alone or the second of the kind `other`, and none denies it."""
    for_it = (one.search(first) and not other.search(first), other.search(second) and not one.search(second))
    against = (other.search(first) and not one.search(first), one.search(second) and not other.search(second))
    return any(for_it) and not any(against)


def _with_outputs(graph: Graph, entries: Any) -> Graph:
    """Returns the graph with the outputs that the app names, in its order, in place of all that show images."""
    if any(entry["class_type"] == "TryOnOutput" for entry in graph.values()):
        return graph
    named: dict[str, dict] = {}
    for entry in entries if isinstance(entries, list) else ():
        node = _find(graph, entry)
        image = _image(graph[node]) if node else None
        if node and image:
            named[node] = {**graph[node], "class_type": "SaveImage", "inputs": {"images": image}}
    if not named:
        return graph
    kept = {
        node: entry for node, entry in graph.items() if node not in named and entry["class_type"] not in IMAGE_OUTPUTS
    }
    return kept | named


def _image(entry: dict) -> list | None:
    """Returns the link of the image that an output node shows."""
    links = (entry["inputs"].get(name) for name in ("images", "image"))
    return next((link for link in links if is_link(link)), None)


def _title(graph: Graph, node: str) -> str:
    return str(graph[node].get("_meta", {}).get("title", ""))

"""Finds the weight files that a workflow file needs, without torch and the node classes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .settings import Settings
from .weights.loaders import CHOICES, LOADERS, Loader, Needs
from .weights.search import resolve_all
from .workflows.dependence import ancestors, links, reachable
from .workflows.format.api import normalised
from .workflows.format.checks import WorkflowInvalid, describe, shown
from .workflows.format.graph import Graph, parse_definitions, parse_graph
from .workflows.format.kinds import SET_OR_GET


class Problem(Exception):
    """The server cannot start; the message says why and what to do."""


class LoaderNode(NamedTuple):
    """A loader in a workflow: how messages name it, and its inputs. A list is a link to another node."""

    name: str
    loader: Loader
    inputs: Mapping[str, Any]

    def needs(self) -> Needs:
        """Returns the paths and the files in them; none if another node gives one of the inputs.

        Raises:
            WorkflowInvalid: an input has a value that the node does not offer.
        """
        given = {name: self.inputs.get(name, default) for name, default in self.loader.defaults.items()}
        for name, value in given.items():
            offered = CHOICES.get(name)
            if offered and not isinstance(value, list) and value not in offered:
                raise WorkflowInvalid(f"{self.name}: {name} is {shown(value)}, not one of {', '.join(offered)}")
        return self.loader.needs(**given) if all(isinstance(value, str) for value in given.values()) else []


def weight_files(chosen: Settings) -> list[Path]:
    """Returns the files that the workflow's loaders will read.

    Raises:
        Problem: the workflow cannot be read.
        WeightsMissing: files are missing.
    """
    wanted = read_needs(chosen)
    return [
        folder / next(name for name in names if (folder / name).is_file())
        for folder, (_, needed) in zip(resolve_all(wanted), wanted, strict=True)
        for names in needed
    ]


def read_needs(chosen: Settings) -> Needs:
    """Returns what each loader node of the workflow file needs: its path and the files in it.

    A loader that takes one of its inputs from another node is left to the server.

    Raises:
        Problem: the file cannot be read.
    """
    path = chosen.workflows_dir / f"{chosen.workflow}.json"
    try:
        return [need for node in _loader_nodes(json.loads(path.read_bytes())) for need in node.needs()]
    except OSError as error:
        names = ", ".join(sorted(path.stem for path in chosen.workflows_dir.glob("*.json"))) or "none"
        raise Problem(
            f"TRYON_WORKFLOW is {chosen.workflow}, but {path} cannot be read ({error.strerror}). Available: {names}."
        ) from None
    except WorkflowInvalid as error:
        raise Problem(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise Problem(f"{path} is not JSON ({error}): export the workflow again.") from None


def _loader_nodes(workflow: Any) -> Iterator[LoaderNode]:
    """Yields every loader node that a TryOnOutput depends on; without one, every loader node whose output is linked.

    The server's converter needs every node's class, and those come with torch and with ComfyUI. The loaders' widgets
    are few and plain enough to be read without it.
    """
    if not isinstance(workflow, dict):
        raise WorkflowInvalid("a workflow file must hold a JSON object: save it again from ComfyUI's web page")
    if isinstance(workflow.get("nodes"), list):
        yield from _of_the_page(workflow)
        return
    prompt, _ = normalised(workflow, {})
    outputs = [node_id for node_id, entry in prompt.items() if entry["class_type"] == "TryOnOutput"]
    linked = {origin for entry in prompt.values() for origin, _ in links(entry)}
    needed = ancestors(prompt, outputs) if outputs else linked
    for node_id, entry in prompt.items():
        if node_id in needed and (loader := LOADERS.get(entry["class_type"])):
            yield LoaderNode(describe(node_id, entry["class_type"], entry["_meta"]["title"]), loader, entry["inputs"])


def _needed(graph: Graph) -> set[str]:
    """Returns the nodes that a TryOnOutput depends on; all that are linked, if none is in this graph or some values
    need no links."""
    outputs = [node.id for node in graph.nodes.values() if node.type == "TryOnOutput" and node.active]
    if not outputs or graph.broadcast or any(SET_OR_GET.fullmatch(node.type) for node in graph.nodes.values()):
        return _linked(graph)
    origins: dict[str, list[str]] = {}
    for link in graph.links.values():
        origins.setdefault(link.target, []).append(link.origin)
    return reachable(origins, outputs)


def _linked(graph: Graph) -> set[str]:
    return {link.origin for link in graph.links.values()}


def _of_the_page(workflow: dict[str, Any]) -> Iterator[LoaderNode]:
    root = parse_graph({key: workflow.get(key) for key in ("nodes", "links")}, "the workflow")
    for graph in (root, *parse_definitions(workflow).values()):
        needed = _needed(root) if graph is root else _linked(graph)
        for node in graph.nodes.values():
            if (loader := LOADERS.get(node.type)) and node.active and node.id in needed:
                values = node.values
                named = values if isinstance(values, dict) else dict(zip(loader.defaults, values, strict=False))
                linked = {slot.name: [slot.link] for slot in node.inputs if slot.link is not None}
                yield LoaderNode(describe(node.id, node.type, node.title), loader, named | linked)

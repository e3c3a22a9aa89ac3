"""Which nodes of a graph depend on which."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..engine.interface import is_link

Graph = Mapping[str, dict[str, Any]]


def links(entry: dict) -> list[list]:
    """Returns the links among a node's inputs, [node id, output index]."""
    return [value for value in entry["inputs"].values() if is_link(value)]


def ancestors(graph: Graph, nodes: Iterable[str]) -> set[str]:
    """Returns `nodes` and everything that they depend on."""
    return reachable({node: [origin for origin, _ in links(entry)] for node, entry in graph.items()}, nodes)


def descendants(graph: Graph, nodes: Iterable[str]) -> set[str]:
    """Returns `nodes` and everything that depends on them."""
    children: dict[str, list[str]] = {node: [] for node in graph}
    for node, entry in graph.items():
        for origin, _ in links(entry):
            children[origin].append(node)
    return reachable(children, nodes)


def reachable(neighbours: Mapping[str, Sequence[str]], nodes: Iterable[str]) -> set[str]:
    """Returns `nodes` and everything that can be reached from them."""
    found: set[str] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += neighbours.get(node, ())
    return found

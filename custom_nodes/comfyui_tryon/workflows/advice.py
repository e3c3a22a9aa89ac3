"""Says which node of a graph to change where a request's image has no place in it, or its result no output."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..engine.interface import is_link
from .format.checks import describe

MAX_CHOICES = 4
LOADS_IMAGES = re.compile("(?=.*(load|input|fetch|url))(?=.*image)", re.IGNORECASE)


def no_place(graph: Mapping[str, dict[str, Any]], field: str, titles: Sequence[str], own: str) -> str:
    """Returns what to do where no node takes an image.

    Args:
        graph: the prompt of all nodes.
        field: the request's field.
        titles: the titles, in small letters, by which a LoadImage takes it.
        own: the class of this pack's node for it.
    """
    quoted = " or ".join(map(repr, titles))
    loaders = [node for node, entry in graph.items() if entry["class_type"] == "LoadImage"]
    loaders = [node for node in loaders if _title(graph, node) not in ("target person", "reference garment")]
    others = [node for node, entry in graph.items() if entry["class_type"] != "LoadImage"]
    titled = [node for node in others if _title(graph, node) in titles]
    similar = [node for node in others if LOADS_IMAGES.match(graph[node]["class_type"]) and _is_source(graph, node)]
    if titled:
        advice = (
            f"{_named(graph, titled[:1])} has its title, which counts on a LoadImage only: replace it by a {own} node"
        )
    elif loaders:
        advice = f"title {_named(graph, loaders)} {quoted}, or replace it by a {own} node"
    elif similar:
        advice = f"replace {_named(graph, similar)} by a {own} node"
    else:
        advice = f"add a {own} node"
    return f"it has no place for {field}: {advice}"


def no_output(graph: Mapping[str, dict[str, Any]], results: Collection[str]) -> str:
    """Returns what to do where no node shows an image of `results`, the nodes that depend on both images."""
    feeding = {value[0] for entry in graph.values() for value in entry["inputs"].values() if is_link(value)}
    last = [node for node in graph if node in results and node not in feeding]
    where = f"what goes into {_named(graph, last)}" if last else "the result"
    return f"it has no output that depends on both images: add a TryOnOutput node to {where}"


def bypassed(unused: Sequence[str], nodes: Sequence[str]) -> str:
    """Returns what to do where bypassed `nodes` leave images of a request without a part in the output."""
    some = ", ".join(nodes[:MAX_CHOICES]) + (", …" if len(nodes) > MAX_CHOICES else "")
    return (
        f"its outputs do not use {' and '.join(unused)}, and these nodes are bypassed: {some}. Enable the one that "
        "makes the image, and save the workflow again"
    )


def _is_source(graph: Mapping[str, dict], node: str) -> bool:
    return not any(is_link(value) for value in graph[node]["inputs"].values())


def _title(graph: Mapping[str, dict], node: str) -> str:
    return str(graph[node].get("_meta", {}).get("title", "")).strip().lower()


def _named(graph: Mapping[str, dict], nodes: Sequence[str]) -> str:
    named = (describe(node, graph[node]["class_type"], graph[node].get("_meta", {}).get("title")) for node in nodes)
    more = f" or {len(nodes) - MAX_CHOICES} more" if len(nodes) > MAX_CHOICES else ""
    return " or ".join(list(named)[:MAX_CHOICES]) + more

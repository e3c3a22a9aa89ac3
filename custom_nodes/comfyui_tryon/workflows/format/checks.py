"""Checks workflows in both formats, and defines the error that says why one cannot serve."""

import math
import re
from collections.abc import Mapping
from typing import Any

NodeClasses = Mapping[str, Any]  # by class name; Any, because packs define their attributes as they like
MAX_NODES = 5_000  # subgraphs counted as often as they are used
MAX_DEPTH = 64  # of the JSON document
MAX_VALUES = 500_000  # in the JSON document


class WorkflowInvalid(ValueError):
    """A workflow cannot serve requests; the message says what to change in it."""


def check_json(document: Any) -> None:
    """Refuses values that JSON does not have, and documents deeper or larger than any workflow."""
    count = 0
    # a list, not recursion, which a deeply nested document would exhaust
    pending: list[tuple[Any, int]] = [(document, 1)]
    while pending:
        value, depth = pending.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise WorkflowInvalid(f"the file is nested more than {MAX_DEPTH} levels deep")
        if count > MAX_VALUES:
            raise WorkflowInvalid(f"the file holds more than {MAX_VALUES} values")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise WorkflowInvalid("the file has an object key that is not a string: it is not JSON")
            pending.extend((child, depth + 1) for child in value.values())
        elif isinstance(value, list):
            pending.extend((child, depth + 1) for child in value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise WorkflowInvalid("the file holds a number that is not finite: it is not JSON")
        elif value is not None and not isinstance(value, (str, int, float, bool)):
            raise WorkflowInvalid(f"the file holds a {type(value).__name__}: it is not JSON")


def shown(text: Any) -> str:
    """Quotes text from the file, escaped and short enough for a message."""
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def describe(node_id: str, node_type: str | None = None, title: str | None = None) -> str:
    """Returns how messages name a node: `node 3 (KSampler 'its title')`."""
    node = f"node {shown(node_id)[1:-1]}"
    if not node_type:
        return node
    return f"{node} ({shown(node_type)[1:-1]}{f' {shown(title)}' if title and title != node_type else ''})"


def unknown_class(node_id: str, node_type: str, title: str | None) -> WorkflowInvalid:
    """Returns the error for a node whose class is not loaded, with advice for the kinds of classes that never are."""
    if re.match("workflow[>/]", node_type):
        advice = "a legacy group node: open the workflow in ComfyUI's web page, turn it into a subgraph and save again"
    elif re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", node_type):
        advice = "a subgraph whose definition is not in the file: save the whole workflow again from the web page"
    else:
        advice = "this ComfyUI has no node class of that name: install the pack it comes from, or remove the node"
    return WorkflowInvalid(f"{describe(node_id, node_type, title)}: {advice}")


def check_links(prompt: dict[str, dict], node_classes: NodeClasses) -> None:
    """Refuses links to outputs that do not exist, and nodes that depend on themselves."""
    consumers: dict[str, list[str]] = {node_id: [] for node_id in prompt}
    waiting = dict.fromkeys(prompt, 0)
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                continue
            origin, slot = value
            where = f"{describe(node_id, node['class_type'], node['_meta']['title'])}: input {shown(name)}"
            if origin not in prompt:
                raise WorkflowInvalid(
                    f"{where} is linked to node {shown(origin)}, which does not exist: connect it again"
                )
            if not has_output(node_classes[prompt[origin]["class_type"]], slot):
                raise WorkflowInvalid(
                    f"{where} is linked to output {slot} of {describe(origin, prompt[origin]['class_type'])}, which "
                    "has no such output: connect it again"
                )
            consumers[origin].append(node_id)
            waiting[node_id] += 1
    # Takes away nodes that wait for nothing until none is left; those that stay are in a loop or behind one.
    ready = [node_id for node_id, count in waiting.items() if not count]
    while ready:
        for consumer in consumers[ready.pop()]:
            waiting[consumer] -= 1
            if not waiting[consumer]:
                ready.append(consumer)
    for node_id, count in waiting.items():
        if count:
            class_type = prompt[node_id]["class_type"]
            where = describe(node_id, class_type, prompt[node_id]["_meta"]["title"])
            raise WorkflowInvalid(f"{where} is in, or depends on, a loop of links: remove one of them")


def has_output(node_class: Any, slot: int) -> bool:
    try:
        node_class.RETURN_TYPES[slot]
    except Exception:  # third-party: RETURN_TYPES may be any object with __getitem__
        return False
    return slot >= 0


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    return is_int(value) or (isinstance(value, str) and value != "")

"""What every workflow document must be, and the error that says what is wrong with one."""

import math
import re
from collections.abc import Mapping
from typing import Any

MAX_NODES = 5_000  # subgraphs counted as often as they are used
MAX_DEPTH = 64  # of the JSON document
MAX_VALUES = 500_000  # in the JSON document


class WorkflowFormatError(ValueError):
    """A document that is no workflow, or a workflow that cannot be converted faithfully.

    `node_id` and `node_type` say which node is in the way, None where the fault is the whole document's.
    """

    def __init__(self, message: str, node_id: str | None = None, node_type: str | None = None):
        super().__init__(message)
        self.node_id = node_id
        self.node_type = node_type


def check_json(document: Any) -> None:
    """Refuse what no JSON file holds, and files deeper or larger than any workflow."""
    count = 0
    pending: list[tuple[Any, int]] = [(document, 1)]
    while pending:
        value, depth = pending.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise WorkflowFormatError(f"the file is nested more than {MAX_DEPTH} levels deep: no workflow is")
        if count > MAX_VALUES:
            raise WorkflowFormatError(f"the file holds more than {MAX_VALUES} values: no workflow does")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise WorkflowFormatError("the file has an object key that is not a string: it is not JSON")
            pending.extend((child, depth + 1) for child in value.values())
        elif isinstance(value, list):
            pending.extend((child, depth + 1) for child in value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise WorkflowFormatError("the file holds a number that is not finite: it is not JSON")
        elif value is not None and not isinstance(value, (str, int, float, bool)):
            raise WorkflowFormatError(f"the file holds a {type(value).__name__}: it is not JSON")


def shown(text: Any) -> str:
    """Text from the file, safe and short enough for a message."""
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def describe(node_id: str, node_type: str | None = None, title: str | None = None) -> str:
    node = f"node {shown(node_id)[1:-1]}"
    if not node_type:
        return node
    return f"{node} ({shown(node_type)[1:-1]}{f' {shown(title)}' if title and title != node_type else ''})"


def unknown_class(node_id: str, node_type: str, title: str | None) -> WorkflowFormatError:
    if re.match("workflow[>/]", node_type):
        advice = "a legacy group node: open the workflow in ComfyUI's web page, turn it into a subgraph and save again"
    elif re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", node_type):
        advice = "a subgraph whose definition is not in the file: save the whole workflow again from the web page"
    else:
        advice = "this ComfyUI has no node class of that name: install the pack it comes from, or remove the node"
    return WorkflowFormatError(f"{describe(node_id, node_type, title)}: {advice}", node_id, node_type)


def check_links(prompt: dict[str, dict], node_classes: Mapping[str, type]) -> None:
    """Every link leads to an output that exists, and no node depends on itself."""
    consumers: dict[str, list[str]] = {node_id: [] for node_id in prompt}
    waiting = dict.fromkeys(prompt, 0)
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                continue
            origin, slot = value
            where = f"{describe(node_id, node['class_type'], node['_meta']['title'])}: input {shown(name)}"
            if origin not in prompt:
                raise WorkflowFormatError(
                    f"{where} is linked to node {shown(origin)}, which is not there: connect it again",
                    node_id,
                    node["class_type"],
                )
            if not has_output(node_classes[prompt[origin]["class_type"]], slot):
                raise WorkflowFormatError(
                    f"{where} is linked to output {slot} of {describe(origin, prompt[origin]['class_type'])}, which "
                    "has no such output: connect it again",
                    node_id,
                    node["class_type"],
                )
            consumers[origin].append(node_id)
            waiting[node_id] += 1
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
            raise WorkflowFormatError(
                f"{where} is in, or depends on, a loop of links: remove one of them", node_id, class_type
            )


def has_output(node_class: type, slot: int) -> bool:
    try:
        node_class.RETURN_TYPES[slot]
    except Exception:  # third-party: RETURN_TYPES may be any object with __getitem__
        return False
    return slot >= 0


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    return is_int(value) or (isinstance(value, str) and value != "")

"""Checks workflows in both formats, and defines the error that says why one cannot serve."""

import math
from collections.abc import Mapping
from typing import Any

NodeClasses = Mapping[str, Any]  # by class name; Any, because packs define their attributes as they like
MAX_NODES = 5_000  # subgraphs counted as often as they are used
MAX_DEPTH = 64  # of the JSON document
MAX_VALUES = 500_000  # in the JSON document
TAG = "[tryon:"  # begins the list of a node's inputs that requests set, at the end of its title


class WorkflowInvalid(ValueError):
    """A workflow cannot serve requests; the message says what to change in it."""


class MisplacedTag(WorkflowInvalid):
    """A title lists inputs that requests set on a node that exists only in the page."""


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


def whole(value: Any) -> Any:
    """Returns a whole number as an int, because the page does not tell 1.0 from 1; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    return is_int(value) or (isinstance(value, str) and value != "")


def has_output(node_class: Any, slot: int) -> bool:
    try:
        node_class.RETURN_TYPES[slot]
    except Exception:  # third-party: RETURN_TYPES may be any object with __getitem__
        return False
    return slot >= 0

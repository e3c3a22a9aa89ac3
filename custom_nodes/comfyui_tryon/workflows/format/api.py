"""Reads the API format, which has every node's class and its inputs by name."""

import copy
from typing import Any

from .checks import MAX_NODES, NodeClasses, WorkflowInvalid, describe, is_id, is_int, shown, unknown_class


def normalised(document: dict, node_classes: NodeClasses) -> dict[str, dict]:
    """Returns an API export as a prompt: unwrapped, every node titled, fields that the executor ignores left out."""
    for wrapper in ("prompt", "output"):
        inner = document.get(wrapper)
        if isinstance(inner, dict) and "class_type" not in inner:
            document = inner
            break
    if not document:
        raise WorkflowInvalid("the workflow is empty: add nodes and save it again")
    if len(document) > MAX_NODES:
        raise WorkflowInvalid(f"the workflow has {len(document)} nodes, more than {MAX_NODES}")
    prompt = {}
    for node_id, node in document.items():
        if not isinstance(node, dict) or "class_type" not in node:
            raise WorkflowInvalid(
                f"entry {shown(node_id)} is not a node: expected a graph saved by ComfyUI's web page (with a `nodes` "
                'list) or an API export ({"<id>": {"class_type": …, "inputs": …}, …})'
            )
        class_type, inputs, meta = node["class_type"], node.get("inputs", {}), node.get("_meta")
        if not isinstance(class_type, str):
            raise WorkflowInvalid(f"{describe(node_id)}: class_type must be a string")
        if not isinstance(inputs, dict):
            raise WorkflowInvalid(f"{describe(node_id, class_type)}: inputs must be an object")
        title = meta.get("title") if isinstance(meta, dict) else None
        title = title if isinstance(title, str) else class_type
        if class_type not in node_classes:
            raise unknown_class(node_id, class_type, title)
        prompt[node_id] = {
            "class_type": class_type,
            "inputs": {name: _input(value, name, node_id, class_type) for name, value in inputs.items()},
            "_meta": {"title": title},
        }
    return prompt


def _input(value: Any, name: str, node_id: str, class_type: str) -> Any:
    if not isinstance(value, list):
        return copy.deepcopy(value)
    if len(value) == 2 and is_id(value[0]) and is_int(value[1]):
        return [str(value[0]), value[1]]
    raise WorkflowInvalid(
        f"{describe(node_id, class_type)}: input {shown(name)} is a list but not a link: a link is "
        '["<node id>", <output number>], a list value is {"__value__": [...]}'
    )

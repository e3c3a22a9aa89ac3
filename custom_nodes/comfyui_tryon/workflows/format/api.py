"""Reads the API format, which has every node's class and its inputs by name."""

import copy
from typing import Any

from .checks import MAX_NODES, NodeClasses, WorkflowInvalid, describe, is_id, is_int, shown
from .missing import missing


def normalised(document: dict, node_classes: NodeClasses) -> tuple[dict[str, dict], dict[str, WorkflowInvalid]]:
    """Returns an API export as a prompt: unwrapped, every node titled, fields that the executor ignores left out.

    The second value says, by node id, what is wrong with single nodes.
    """
    for wrapper in ("prompt", "output"):
        inner = document.get(wrapper)
        if isinstance(inner, dict) and "class_type" not in inner:
            document = inner
            break
    if not document:
        raise WorkflowInvalid("the workflow is empty: add nodes and save it again")
    if len(document) > MAX_NODES:
        raise WorkflowInvalid(f"the workflow has {len(document)} nodes, more than {MAX_NODES}")
    prompt: dict[str, dict] = {}
    faults: dict[str, WorkflowInvalid] = {}
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
            faults[node_id] = missing(node_id, class_type, title, node_classes)
        prompt[node_id] = {"class_type": class_type, "inputs": {}, "_meta": {"title": title}}
        for name, value in inputs.items():
            try:
                prompt[node_id]["inputs"][name] = _input(value, name, node_id, class_type)
            except WorkflowInvalid as error:
                faults.setdefault(node_id, error)
    return prompt, faults


def _input(value: Any, name: str, node_id: str, class_type: str) -> Any:
    if not isinstance(value, list):
        return copy.deepcopy(value)
    if len(value) == 2 and is_id(value[0]) and is_int(value[1]):
        return [str(value[0]), value[1]]
    raise WorkflowInvalid(
        f"{describe(node_id, class_type)}: input {shown(name)} is a list but not a link: a link is "
        '["<node id>", <output number>], a list value is {"__value__": [...]}'
    )

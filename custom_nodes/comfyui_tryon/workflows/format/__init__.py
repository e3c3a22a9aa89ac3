"""Converts a workflow in either of ComfyUI's two formats to the API prompt that its executor takes.

The API export names every input. The web page's own format holds nodes with positional widget values, links, and
subgraph definitions; turning it into a prompt follows what the page does when it queues a graph
(`Comfy-Org/ComfyUI_frontend`, `src/utils/executionUtil.ts` and `ExecutableNodeDTO.ts`, version 1.48). Where the page
would draw at random, run a widget's own script, or depend on a repair it makes while loading, the node is faulty.
"""

from typing import Any

from .api import normalised
from .checks import NodeClasses, WorkflowInvalid, check_json
from .draft import Draft, without_dangling_links
from .page import Converter

__all__ = ["Draft", "WorkflowInvalid", "convert", "to_prompt"]


def convert(document: Any, node_classes: NodeClasses) -> Draft:
    """Converts a parsed workflow file to a draft of ComfyUI's API prompt, in which single nodes may be faulty.

    Args:
        document: an API export (bare, or under a `prompt` or `output` key) or a graph saved by the web page.
        node_classes: node classes by name, as in `nodes.NODE_CLASS_MAPPINGS`; their `INPUT_TYPES` say which inputs
            are widgets.

    Returns:
        A draft whose prompt is `{node id: {"class_type", "inputs", "_meta": {"title"}}}` and shares nothing with the
        document; nodes in subgraphs have ids like `12:5`.

    Raises:
        WorkflowInvalid: the document as a whole is malformed.
    """
    check_json(document)
    if not isinstance(document, dict):
        raise WorkflowInvalid("a workflow file must hold a JSON object: save it again from ComfyUI's web page")
    app, bypassed = None, []
    if isinstance(document.get("nodes"), list):
        converter = Converter(document, node_classes)
        prompt, faults = converter.prompt()
        bypassed = converter.bypassed
        extra = document.get("extra")
        app = extra.get("linearData") if isinstance(extra, dict) else None
    else:
        prompt, faults = normalised(document, node_classes)
    for node_id, fault in without_dangling_links(prompt).items():
        faults.setdefault(node_id, fault)
    return Draft(prompt, faults, node_classes, app, bypassed)


def to_prompt(document: Any, node_classes: NodeClasses) -> dict[str, dict]:
    """Converts a workflow as `convert` does, and returns its prompt.

    Raises:
        WorkflowInvalid: the document is malformed, or the nodes that the message names cannot be converted.
    """
    draft = convert(document, node_classes)
    draft.check(draft.prompt)
    return draft.prompt

"""Converts a workflow in either of ComfyUI's two formats to the API prompt that its executor takes.

The API export names every input. The web page's own format holds nodes with positional widget values, links, and
subgraph definitions; turning it into a prompt follows what the page does when it queues a graph
(`Comfy-Org/ComfyUI_frontend`, `src/utils/executionUtil.ts` and `ExecutableNodeDTO.ts`, version 1.48). Where the page
would draw at random, run a widget's own script, or depend on a repair it makes while loading, the workflow is refused.
"""

from typing import Any

from .api import normalised
from .checks import NodeClasses, WorkflowInvalid, check_json, check_links
from .page import Converter

__all__ = ["WorkflowInvalid", "to_prompt"]


def to_prompt(document: Any, node_classes: NodeClasses) -> dict[str, dict]:
    """Converts a parsed workflow file to ComfyUI's API prompt.

    Args:
        document: an API export (bare, or under a `prompt` or `output` key) or a graph saved by the web page.
        node_classes: node classes by name, as in `nodes.NODE_CLASS_MAPPINGS`; their `INPUT_TYPES` say which inputs
            are widgets.

    Returns:
        `{node id: {"class_type", "inputs", "_meta": {"title"}}}`, which shares nothing with the document; nodes in
        subgraphs have ids like `12:5`.

    Raises:
        WorkflowInvalid: the document is malformed, or the node that the message names cannot be converted.
    """
    check_json(document)
    if not isinstance(document, dict):
        raise WorkflowInvalid("a workflow file must hold a JSON object: save it again from ComfyUI's web page")
    if isinstance(document.get("nodes"), list):
        prompt = Converter(document, node_classes).prompt()
    else:
        prompt = normalised(document, node_classes)
    check_links(prompt, node_classes)
    return prompt

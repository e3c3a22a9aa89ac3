"""Reads a workflow in either of ComfyUI's two formats and gives the API prompt that its executor takes.

The API export names every input. The web page's own format holds nodes with positional widget values, links, and
subgraph definitions; turning it into a prompt follows what the page does when it queues a graph
(`Comfy-Org/ComfyUI_frontend`, `src/utils/executionUtil.ts` and `ExecutableNodeDTO.ts`, version 1.48). Where the page
would draw at random, run a widget's own script, or depend on a repair it makes while loading, the workflow is refused.
"""

from collections.abc import Mapping
from typing import Any

from .api import normalised
from .checks import WorkflowFormatError, check_json, check_links
from .page import Converter

__all__ = ["WorkflowFormatError", "to_prompt"]


def to_prompt(document: Any, node_classes: Mapping[str, type]) -> dict[str, dict]:
    """Convert a parsed workflow file to ComfyUI's API prompt.

    `document` is an API export (bare, or under a `prompt` or `output` key) or a graph saved by the web page;
    `node_classes` maps class names to node classes (`nodes.NODE_CLASS_MAPPINGS`), whose `INPUT_TYPES` say which inputs
    are widgets. The result is `{node id: {"class_type", "inputs", "_meta": {"title"}}}` and shares nothing with the
    document; nodes within subgraphs have ids like `12:5`. Raises WorkflowFormatError, and nothing else, when the
    document is malformed or a node in it cannot be converted.
    """
    check_json(document)
    if not isinstance(document, dict):
        raise WorkflowFormatError("a workflow file holds a JSON object: save it again from ComfyUI's web page")
    if isinstance(document.get("nodes"), list):
        prompt = Converter(document, node_classes).prompt()
    else:
        prompt = normalised(document, node_classes)
    check_links(prompt, node_classes)
    return prompt

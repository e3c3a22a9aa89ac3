"""Says what ComfyUI's validation finds wrong with a prompt, without what the nodes' inputs hold."""

import logging
from collections.abc import Mapping
from typing import Any

from .raised import bounded

logger = logging.getLogger(__name__)

# Types of errors whose details have an input's value.
QUOTING = {"value_not_in_list", "custom_validation_failed", "invalid_input_type"}


def problems_of(node_errors: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each of the errors that ComfyUI's `validate_prompt` returns by node ids."""
    return [
        f"node {node} ({found['class_type']}): {problem['message']}: {_details(node, problem)}"
        for node, found in node_errors.items()
        for problem in found["errors"]
    ]


def _details(node: str, problem: Mapping[str, Any]) -> str:
    """Returns what is said of an input: of an exception only its class, of a value only whose it is.

    The rest is for the log: a value may be a path, and what it is compared with a list of files.
    """
    known = problem.get("extra_info", {})
    withheld = known.get("exception_type")
    if problem["type"] in QUOTING:
        withheld = withheld or known.get("input_name", "")
    if withheld is None:
        return str(problem["details"])
    logger.error("Node %s: %s: %s", node, problem["message"], bounded(str(problem["details"])))
    return str(withheld)

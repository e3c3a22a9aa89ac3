"""Says what ComfyUI's validation finds wrong with a prompt, without what the nodes' inputs hold."""

import logging
from collections.abc import Mapping
from typing import Any

from .interface import out_of_range
from .raised import bounded

logger = logging.getLogger(__name__)

# Types of errors whose messages, or else whose details, have an input's value.
OUT_OF_RANGE = {"value_smaller_than_min", "value_bigger_than_max"}
QUOTING = {"value_not_in_list", "custom_validation_failed", "invalid_input_type"}


def problems_of(node_errors: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each of the errors that ComfyUI's `validate_prompt` returns by node ids."""
    return [
        f"node {node} ({found['class_type']}): {_said(node, problem)}"
        for node, found in node_errors.items()
        for problem in found["errors"]
    ]


def _said(node: str, problem: Mapping[str, Any]) -> str:
    """Returns what is said of an input: of an exception only its class, of a value only whose it is.

    The rest is for the log: a value may be a path, and what it is compared with a list of files.
    """
    known, message = problem.get("extra_info", {}), problem["message"]
    if problem["type"] in OUT_OF_RANGE:
        said = out_of_range(known["input_name"], known["input_config"][1])
    elif "exception_type" in known or problem["type"] in QUOTING:
        said = f"{message}: {known.get('exception_type') or known.get('input_name', '')}"
    else:
        return f"{message}: {problem['details']}"
    logger.error("Node %s: %s: %s", node, message, bounded(str(problem["details"])))
    return said

"""Makes a bound workflow of a file's content."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .binding import Workflow, bind
from .format import WorkflowInvalid, to_prompt


class LoadImage:
    """Stands for ComfyUI's LoadImage where an engine lacks it: conversion needs its inputs, binding replaces it."""

    RETURN_TYPES = ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"image": ([], {"image_upload": True})}}


def parse_workflow(name: str, data: bytes, node_classes: Mapping[str, type]) -> Workflow:
    """Converts and binds the workflow in a file's content.

    Raises:
        WorkflowInvalid: it is not a workflow, or lacks a person, a garment or an output.
    """
    return bind(name, hashlib.sha256(data).hexdigest()[:12], to_prompt(read_json(data), node_classes))


def read_json(data: bytes) -> Any:
    """Parses JSON; raises WorkflowInvalid."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WorkflowInvalid(f"it is not JSON ({error})") from None

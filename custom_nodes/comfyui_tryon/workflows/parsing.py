"""Makes a workflow of a file's content: parses, converts and binds it, and checks the nodes that its outputs need."""

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from .advice import bypassed
from .app_mode import bound_by_app
from .binding import Workflow, bind
from .format import WorkflowInvalid, convert
from .outputs import REQUIRED_IMAGES

logger = logging.getLogger(__name__)


class LoadImage:
    """Stands for ComfyUI's LoadImage where an engine lacks it: conversion needs its inputs, binding replaces it."""

    RETURN_TYPES = ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"image": ([], {"image_upload": True})}}


def parse_workflow(name: str, data: bytes, node_classes: Mapping[str, type]) -> Workflow:
    """Converts and binds the workflow in a file's content.

    Raises:
        WorkflowInvalid: it is not a workflow, lacks a person, a garment or an output, or has bypassed the node that
            would make the output of both images.
    """
    draft = convert(parsed_json(data), node_classes)
    try:
        workflow = bind(name, version_of(data), bound_by_app(draft.prompt, draft.app), node_classes)
    except WorkflowInvalid as error:
        raise draft.explained(error) from None
    draft.check(workflow.graph)
    unused = [field for field in REQUIRED_IMAGES if not workflow.inputs[field]]
    if unused and draft.bypassed:
        raise WorkflowInvalid(bypassed(unused, draft.bypassed))
    if unused:
        logger.warning("Workflow %s makes its images without %s", name, " and ".join(unused))
    return workflow


def version_of(data: bytes) -> str:
    """Returns the version of a workflow file with this content."""
    return hashlib.sha256(data).hexdigest()[:12]


def parsed_json(data: bytes) -> Any:
    """Parses JSON, or raises WorkflowInvalid."""
    try:
        found = json.loads(data)
        json.dumps(found, ensure_ascii=False).encode()  # fails on half a character, which no reply could hold
        return found
    except (ValueError, RecursionError) as error:
        raise WorkflowInvalid(f"it is not JSON ({error})") from None

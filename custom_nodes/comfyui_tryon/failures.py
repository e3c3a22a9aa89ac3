"""Tells clients why a run has no image, without the text of a node's exception, which may hold paths and inputs."""

from collections.abc import Mapping

from .engine.interface import NodeFailed
from .errors import ApiError, failed_worker
from .fashn.geometry import TooNarrow
from .fashn.parser import ParserMissing
from .masker import NoPersonFound
from .nodes.framing import TryOnPaste
from .nodes.request import TryOnOutput
from .nodes.results import BadResult
from .weights.search import WeightsMissing

MAX_TITLE = 64
# Nodes that check the images of others, with the input that those come in.
LOOKED_AT = {TryOnOutput.__name__: "images", TryOnPaste.__name__: "result"}


def node_error(error: NodeFailed, graph: Mapping[str, dict]) -> ApiError:
    """Returns what a client is told of a node's exception; the engine passes only the name of its class on.

    `graph` is the workflow's.
    """
    if error.error_type == NoPersonFound.__name__:
        return ApiError(
            "no_person_found",
            "No person was found in person_image. Send an image that shows the person, or a mask_image.",
            field="person_image",
        )
    if error.error_type == ParserMissing.__name__:
        return ApiError(
            "invalid_parameter",
            "This worker has no human parser, whose weights are not for commercial use. It is needed for a "
            "garment_image that shows somebody wearing the garment, and to mask person_image without a mask_image. "
            "Send an image of the garment alone, with garment_photo flat-lay, or a mask_image.",
            field="garment_photo",
        )
    if error.error_type == TooNarrow.__name__:
        return ApiError(
            "invalid_image",
            "person_image or garment_image is too narrow: scaled to the model's size, one of its sides has no pixel. "
            "Send images that are less elongated.",
            field="person_image",
        )
    if error.error_type == WeightsMissing.__name__:
        return ApiError(
            "not_ready",
            "This worker has no weights for that workflow. The log lists the missing files and the command that "
            "downloads them.",
            retry_after=60,
        )
    if error.is_out_of_memory:
        return ApiError(
            "out_of_memory", "This worker ran out of memory. Retry, or ask for a smaller image.", retry_after=5
        )
    if error.is_device_fault:
        return failed_worker()
    node, reason = error.node, "failed. The operator finds the reason in the log under this request's id."
    if error.error_type == BadResult.__name__ and error.node_type in LOOKED_AT:
        # These look at what another node made, and their message is this pack's own.
        node, reason = graph[node]["inputs"][LOOKED_AT[error.node_type]][0], f"made no image. {error.message}"
    entry = graph.get(node, {})
    node_type = entry.get("class_type", error.node_type)
    title = str(entry.get("_meta", {}).get("title") or node_type)[:MAX_TITLE]
    shown = node_type if title == node_type else f"{node_type}, {title!r}"
    return ApiError(
        "node_execution_error",
        f"Node {node} ({shown}) of the workflow {reason}",
        node=node,
        node_type=node_type,
        title=title,
    )

"""Tells clients why a run has no image, without the text of a node's exception, which may hold paths and inputs."""

from .engine.interface import NodeFailed
from .errors import ApiError, failed_worker
from .masker import NoPersonFound
from .weights.search import WeightsMissing


def node_error(error: NodeFailed) -> ApiError:
    """Returns what a client is told of a node's exception; the engine passes only the name of its class on."""
    if error.error_type == NoPersonFound.__name__:
        return ApiError(
            "no_person_found",
            "No person was found in person_image. Send an image that shows the person, or a mask_image.",
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
    return ApiError(
        "node_execution_error",
        f"Node {error.node} ({error.node_type}) of the workflow failed. The operator finds the reason in the log "
        "under this request's id.",
        node=error.node,
        node_type=error.node_type,
    )

"""Client of the virtual try-on API, sync and async.

with TryOn("http://127.0.0.1:8000") as client:
    result = client.try_on("person.jpg", "garment.jpg")
    result.images[0].save("result.png")
"""

from ._asynchronous import AsyncEvents, AsyncTryOn
from ._errors import TryOnError, WebhookInvalid
from ._form import ImageSource
from ._results import Event, Health, OutputEvent, Result, ResultImage
from ._synchronous import Events, TryOn
from ._types import (
    VERSION,
    BoundWorkflow,
    Caution,
    CautionCode,
    ClothType,
    ErrorCode,
    Fields,
    Framing,
    MaskShape,
    OutputFormat,
    PreviewEvent,
    ProgressEvent,
    Report,
    StatusEvent,
    Timings,
    WorkflowVersion,
)
from ._webhooks import verify_webhook

__version__ = VERSION

__all__ = [
    "AsyncEvents",
    "AsyncTryOn",
    "BoundWorkflow",
    "Caution",
    "CautionCode",
    "ClothType",
    "ErrorCode",
    "Event",
    "Events",
    "Fields",
    "Framing",
    "Health",
    "ImageSource",
    "MaskShape",
    "OutputEvent",
    "OutputFormat",
    "PreviewEvent",
    "ProgressEvent",
    "Report",
    "Result",
    "ResultImage",
    "StatusEvent",
    "Timings",
    "TryOn",
    "TryOnError",
    "VERSION",
    "WebhookInvalid",
    "WorkflowVersion",
    "verify_webhook",
]

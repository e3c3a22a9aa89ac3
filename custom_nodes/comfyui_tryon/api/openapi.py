"""The OpenAPI document, made from the models that validate."""

from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ..errors import STATUS
from ..reply_models import (
    Accepted,
    ErrorReply,
    PreviewEvent,
    ProgressEvent,
    StatusEvent,
    TryonReply,
    WebhookError,
    WorkflowList,
)
from ..schema import IMAGE_FIELDS, SEVERAL_FIELDS, TryonRequest
from ..settings import WORKFLOW_NAME
from ..version import VERSION

REPLIES = (
    Accepted,
    TryonReply,
    ErrorReply,
    WebhookError,
    WorkflowList,
    StatusEvent,
    ProgressEvent,
    PreviewEvent,
)
REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "Your id for the request, 1 to 64 of A-Z a-z 0-9 . _ -; generated if absent.",
    "schema": {"type": "string"},
}
# 16 x 16 grey pixels.
GREY = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEUlEQVR42mNsYEAFTAwjWgAAmZAAoFDIQrAAAAAASUVORK5CYII="
EXAMPLE = {"person_image": GREY, "garment_image": GREY, "cloth_type": "upper"}


def document(publishing: bool) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document, with the paths that publish workflows if `publishing`."""
    models: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        (TryonRequest, "validation"),
        *((model, "serialization") for model in REPLIES),
    ]
    _, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")
    schemas = definitions["$defs"]
    _allow_null(schemas["TryonRequest"])
    schemas["TryonForm"] = _form(schemas["TryonRequest"])
    image = {"schema": {"type": "string", "format": "binary"}}
    ok = {
        "description": "The images.",
        "headers": {
            "X-Request-Id": {"schema": {"type": "string"}},
            "X-Seed": {"schema": {"type": "string"}, "description": "The first image's seed."},
        },
        "content": {  # pages that try the API out ask for the first: an image can be looked at
            "image/png": image,
            "application/json": _schema("TryonReply"),
            "image/jpeg": image,
            "image/webp": image,
            "text/event-stream": {
                "schema": {
                    "type": "string",
                    "description": "Events: status (StatusEvent), progress (ProgressEvent), preview (PreviewEvent), "
                    "then output (TryonReply) or error (ErrorReply).",
                }
            },
        },
    }
    tryon_errors = set(STATUS) - {"method_not_allowed", "not_found"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Virtual try-on",
            "version": VERSION,
            "description": "Send a person and a garment, get an image of the person wearing the garment.",
        },
        "paths": {
            "/api/v1/tryon": {
                "post": {
                    "operationId": "tryon",
                    "summary": "Dress a person in a garment",
                    "parameters": [REQUEST_ID],
                    "requestBody": {
                        "required": True,
                        "content": {  # pages that try the API out take the first: files are easier to choose
                            "multipart/form-data": _schema("TryonForm"),
                            "application/json": {**_schema("TryonRequest"), "example": EXAMPLE},
                        },
                    },
                    "responses": {"200": ok, "202": _accepted(), **_errors(tryon_errors)},
                    "callbacks": {"finished": {"{$request.body#/webhook_url}": {"post": _callback()}}},
                }
            },
            "/api/v1/tryon/{id}": {
                "delete": {
                    "operationId": "cancel",
                    "summary": "Cancel a request that waits or runs",
                    "parameters": [
                        {
                            "name": "id",
                            "in": "path",
                            "required": True,
                            "description": "The X-Request-Id that the request was sent with.",
                            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
                        }
                    ],
                    "responses": {"204": {"description": "Canceled."}, **_errors({"unauthorized", "not_found"})},
                }
            },
            "/api/v1/workflows": {
                "get": {
                    "operationId": "workflows",
                    "summary": "List the published workflows and their parameters",
                    "responses": {
                        "200": {
                            "description": "The workflows.",
                            "content": {"application/json": _schema("WorkflowList")},
                        },
                        **_errors({"unauthorized"}),
                    },
                }
            },
            **({"/api/v1/workflows/{name}": _publishing()} if publishing else {}),
            "/ping": {
                "get": {
                    "operationId": "ping",
                    "summary": "Tell whether this worker answers requests",
                    "security": [],
                    "responses": {
                        "200": {"description": "Ready."},
                        "204": {"description": "Starting or warming up."},
                        "503": {"description": "Failed until the process is replaced, or draining."},
                    },
                }
            },
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{}, {"key": []}, {"bearer": []}],
    }


def _accepted() -> dict[str, Any]:
    return {
        "description": "The request has a webhook_url and is queued.",
        "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
        "content": {"application/json": _schema("Accepted")},
    }


def _callback() -> dict[str, Any]:
    """Describes what webhook_url gets."""
    names = {
        "webhook-id": "The message's id, the same at each attempt.",
        "webhook-timestamp": "When the attempt was made, in seconds since 1970.",
        "webhook-signature": "v1, and the signature in base64; see https://www.standardwebhooks.com.",
        "X-Request-Id": "The request's id.",
    }
    parameters = [
        {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in names.items()
    ]
    either = [_schema(name)["schema"] for name in ("TryonReply", "WebhookError")]
    return {
        "operationId": "webhook",
        "summary": "Take the reply or the error of a request",
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": either}}}},
        "responses": {
            "2XX": {"description": "The receiver has it."},
            "410": {"description": "The receiver wants it no more."},
            "default": {"description": "It is sent again, for 5 minutes."},
        },
    }


def _publishing() -> dict[str, Any]:
    graph = {"type": "object", "additionalProperties": True}
    name = {"type": "string", "pattern": f"^{WORKFLOW_NAME}$"}
    return {
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": name}],
        "put": {
            "operationId": "publish",
            "summary": "Publish the web page's open graph as a workflow",
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["workflow", "prompt"],
                            "properties": {
                                "workflow": {**graph, "description": "The graph as the page saves it."},
                                "prompt": {**graph, "description": "The API prompt that the page queues for it."},
                            },
                        }
                    }
                },
            },
            "responses": {
                "200": {"description": "Published.", "content": {"application/json": _schema("BoundWorkflow")}},
                **_errors({"invalid_parameter", "payload_too_large", "unauthorized"}),
            },
        },
        "delete": {
            "operationId": "withdraw",
            "summary": "Remove a workflow",
            "responses": {"204": {"description": "Removed."}, **_errors({"unauthorized", "not_found"})},
        },
    }


def _allow_null(schema: dict[str, Any]) -> None:
    """Says that null stands for no value in every optional field."""
    null = {"type": "null"}
    for name, field in schema["properties"].items():
        if name not in schema["required"] and null not in field.get("anyOf", ()):
            outer = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
            schema["properties"][name] = outer | {"anyOf": [*field.get("anyOf", [field]), null]}


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    """Describes the same fields as a form sends them: images as files, and no null, which a form cannot express."""
    properties = {}
    for name, field in schema["properties"].items():
        file = {"type": "string", "format": "binary"}
        if name in SEVERAL_FIELDS:  # a part that may be repeated
            array = next(option for option in field["anyOf"] if option.get("type") == "array")
            items = file if name in IMAGE_FIELDS else array["items"]
            field = {**array, "items": items} | {key: field[key] for key in ("description", "default") if key in field}
            if not isinstance(field.get("default", []), list):
                field["default"] = [field["default"]]
        elif name in IMAGE_FIELDS:
            field = {**file, "description": field["description"]}
        elif "anyOf" in field:
            value = next(option for option in field["anyOf"] if option.get("type") != "null")
            field = {
                key: text
                for key, text in field.items()
                if key in ("title", "description", "default") and text is not None
            } | value
        optional = name not in schema["required"]
        if optional and field.get("default") is None:
            # A blank control is no value. Without this, pages that try the API out make up a value for each.
            field = {**field, "examples": [[] if field.get("type") == "array" else ""]}
        properties[name] = field
    return {**schema, "title": "TryonForm", "properties": properties}


def _schema(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _errors(codes: set[str]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code, status in STATUS.items():
        if code in codes:
            by_status.setdefault(status, []).append(code)
    retry = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait before a retry."}}
    return {
        str(status): {
            "description": ", ".join(names),
            "x-codes": names,
            "content": {"application/json": _schema("ErrorReply")},
            **({"headers": retry} if status in (429, 503) else {}),
        }
        for status, names in by_status.items()
    }

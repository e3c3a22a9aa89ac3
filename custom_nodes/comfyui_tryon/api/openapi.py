"""The OpenAPI document, made from the models that validate, and the page that shows it."""

import importlib.util
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from ..errors import STATUS
from ..schema import ErrorReply, TryonReply, TryonRequest, WorkflowList
from ..workflows.store import NAME

VERSION = "1"
DOCS_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
DOCS_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Virtual try-on API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#page", validatorUrl: null})</script>
</html>
"""
PICTURE_FIELDS = ("person_image", "garment_image", "mask_image")
REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "Your id for the request, 1 to 64 of A-Z a-z 0-9 . _ -; one is made if you send none.",
    "schema": {"type": "string"},
}


def document(dev: bool) -> dict[str, Any]:
    """OpenAPI 3.1; with what is there for workflow authors only, if `dev`."""
    models = [
        (TryonRequest, "validation"),
        *((model, "serialization") for model in (TryonReply, ErrorReply, WorkflowList)),
    ]
    _, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")
    schemas = definitions["$defs"]
    schemas["TryonForm"] = _form(schemas["TryonRequest"])
    picture = {"schema": {"type": "string", "format": "binary"}}
    ok = {
        "description": "The pictures.",
        "headers": {
            "X-Request-Id": {"schema": {"type": "string"}},
            "X-Seed": {"schema": {"type": "string"}, "description": "The first picture's seed."},
        },
        "content": {
            "application/json": _schema("TryonReply"),
            **{f"image/{name}": picture for name in ("png", "jpeg", "webp")},
            "text/event-stream": {
                "schema": {
                    "type": "string",
                    "description": "Events: status (queued, position; running), progress (value, max, node), preview "
                    "(image: a small JPEG in base64), then output (as the JSON reply) or error (as an error reply).",
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
            "description": "A person and a garment in, a picture of the person in the garment out.",
        },
        "paths": {
            "/api/v1/tryon": {
                "post": {
                    "operationId": "tryon",
                    "summary": "Dress a person in a garment",
                    "parameters": [REQUEST_ID],
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": _schema("TryonRequest"),
                            "multipart/form-data": _schema("TryonForm"),
                        },
                    },
                    "responses": {"200": ok, **_errors(tryon_errors)},
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
                    "responses": {"204": {"description": "It is canceled."}, **_errors({"unauthorized", "not_found"})},
                }
            },
            "/api/v1/workflows": {
                "get": {
                    "operationId": "workflows",
                    "summary": "The published workflows and their parameters",
                    "responses": {
                        "200": {
                            "description": "The workflows.",
                            "content": {"application/json": _schema("WorkflowList")},
                        },
                        **_errors({"unauthorized"}),
                    },
                }
            },
            **({"/api/v1/workflows/{name}": _publishing()} if dev else {}),
            "/ping": {
                "get": {
                    "operationId": "ping",
                    "summary": "Whether this worker answers requests",
                    "security": [],
                    "responses": {
                        "200": {"description": "Ready."},
                        "204": {"description": "Starting or warming up."},
                        "503": {"description": "Unhealthy for good, or draining."},
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


def _publishing() -> dict[str, Any]:
    graph = {"type": "object", "additionalProperties": True}
    name = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    return {
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": name}],
        "put": {
            "operationId": "publish",
            "summary": "Make the web page's open graph a workflow",
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
                "200": {"description": "It is published.", "content": {"application/json": _schema("BoundWorkflow")}},
                **_errors({"invalid_parameter", "payload_too_large", "unauthorized"}),
            },
        },
        "delete": {
            "operationId": "withdraw",
            "summary": "Remove a workflow",
            "responses": {"204": {"description": "It is removed."}, **_errors({"unauthorized", "not_found"})},
        },
    }


def docs_file(name: str) -> bytes:
    """One of `DOCS_FILES`, from the installed Swagger UI package."""
    package = importlib.util.find_spec("swagger_ui")
    return (Path(package.submodule_search_locations[0]) / "static" / name).read_bytes()


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    """The same fields as a form sends them: pictures as files, and no null, for which a form has no sign."""
    properties = {}
    for name, field in schema["properties"].items():
        if name in PICTURE_FIELDS:
            field = {"type": "string", "format": "binary", "description": field["description"]}
        elif "anyOf" in field:
            value = next(option for option in field["anyOf"] if option.get("type") != "null")
            field = {key: text for key, text in field.items() if key in ("title", "description")} | value
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
            "content": {"application/json": _schema("ErrorReply")},
            **({"headers": retry} if status in (429, 503) else {}),
        }
        for status, names in by_status.items()
    }

// Generated from the OpenAPI document by clients/generate.py; edit that instead.

export const VERSION = "0.2.0";

/** The HTTP status of each error code.
 * @type {Record<string, number>} */
export const STATUS = {
  "invalid_request": 400,
  "unauthorized": 401,
  "not_found": 404,
  "workflow_not_found": 404,
  "conflict": 409,
  "payload_too_large": 413,
  "unsupported_media_type": 415,
  "invalid_image": 422,
  "image_too_large": 422,
  "invalid_parameter": 422,
  "missing_field": 422,
  "no_person_found": 422,
  "upload_failed": 424,
  "queue_full": 429,
  "canceled": 499,
  "node_execution_error": 500,
  "internal_error": 500,
  "workflow_invalid": 500,
  "not_ready": 503,
  "draining": 503,
  "out_of_memory": 503,
  "timeout": 504
};

/** What the values of a schema's properties are, other than plain JSON.
 * @type {Record<string, Record<string, string>>} */
export const CONVERSIONS = {
  "Accepted": {},
  "BoundWorkflow": {},
  "Caution": {},
  "Error": {},
  "ErrorReply": {
    "error": "Error"
  },
  "Image": {
    "image": "bytes",
    "report": "Report"
  },
  "Output": {
    "images": "Image",
    "mask": "bytes"
  },
  "PreviewEvent": {
    "image": "bytes"
  },
  "ProgressEvent": {},
  "Report": {},
  "StatusEvent": {},
  "Timings": {},
  "TryonReply": {
    "output": "Output",
    "workflow": "WorkflowVersion",
    "timings": "Timings",
    "warnings": "Caution"
  },
  "WebhookError": {
    "error": "Error"
  },
  "WorkflowList": {
    "workflows": "BoundWorkflow"
  },
  "WorkflowVersion": {}
};

/** What properties are called that have other names in the API.
 * @type {Record<string, string>} */
export const RENAMED = {
  "bytes": "size"
};

/** What absent properties stand for.
 * @type {Record<string, Record<string, unknown>>} */
export const DEFAULTS = {
  "Accepted": {
    "status": "queued"
  },
  "BoundWorkflow": {
    "version": null,
    "parameters": {},
    "bound": {},
    "outputs": [],
    "seed": "used",
    "mask": "none",
    "licence": null,
    "commercialUse": false,
    "problem": null
  },
  "Caution": {},
  "Error": {},
  "ErrorReply": {},
  "Image": {
    "image": null,
    "url": null,
    "size": null,
    "report": null
  },
  "Output": {
    "mask": null
  },
  "PreviewEvent": {},
  "ProgressEvent": {},
  "Report": {},
  "StatusEvent": {
    "position": null
  },
  "Timings": {},
  "TryonReply": {
    "warnings": []
  },
  "WebhookError": {},
  "WorkflowList": {},
  "WorkflowVersion": {}
};

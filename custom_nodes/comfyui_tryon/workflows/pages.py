"""The page's graph of a workflow that is published as a prompt, kept in a file beside it."""

import json
from pathlib import Path
from typing import Any

from .parsing import parsed_json, version_of

PUBLISHED_AS = "tryon_version"  # in the graph: of the prompt that was published with it


def page_file(page: dict[str, Any], version: str) -> bytes:
    """Returns the content of the file that keeps a graph, which is of the prompt of this version."""
    return json.dumps({**page, PUBLISHED_AS: version}, indent=1).encode()


def published_page(path: Path, served: bytes) -> dict[str, Any] | None:
    """Returns the graph in such a file, or None if there is none, or the prompt that is served is another one by now.

    Raises:
        WorkflowInvalid: the file cannot be read.
    """
    page = parsed_json(path.read_bytes()) if path.is_file() else None
    if not isinstance(page, dict):
        return None
    version = version_of(served)
    return page if page.pop(PUBLISHED_AS, version) == version else None

"""The page's graph of a workflow that is published as a prompt, kept in a file beside it."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .format import WorkflowInvalid, to_prompt
from .format.checks import MisplacedTag, NodeClasses
from .parsing import parsed_json, version_of

logger = logging.getLogger(__name__)

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


def converts_to(name: str, prompt: dict[str, Any], page: dict[str, Any], node_classes: NodeClasses) -> bool:
    """Says whether converting the page's graph gives the prompt that is published with it as the workflow `name`.

    Raises:
        MisplacedTag: the graph has a tag that the prompt lacks.
    """
    try:
        return _executed(to_prompt(page, node_classes)) == _executed(to_prompt(prompt, node_classes))
    except MisplacedTag:
        raise
    except WorkflowInvalid as error:
        logger.info("Workflow %s is published as an API prompt: %s", name, error)
        return False


def _executed(graph: Mapping[str, dict]) -> dict[str, tuple]:
    """Returns `graph` without titles: the page gives untitled nodes a title in the prompt, not in its saved graph."""
    return {node: (entry["class_type"], entry["inputs"]) for node, entry in graph.items()}

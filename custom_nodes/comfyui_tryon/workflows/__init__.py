"""Workflow files: `format` converts them to prompts, `binding` finds where a request goes, `store` keeps the folder."""

from .binding import Workflow
from .format import WorkflowInvalid
from .store import MAX_BYTES, Workflows

__all__ = ["MAX_BYTES", "Workflow", "WorkflowInvalid", "Workflows"]

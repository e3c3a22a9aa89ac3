"""Workflow files: which there are, and where a request goes in their graphs."""

from .store import MAX_BYTES, Workflow, WorkflowInvalid, Workflows

__all__ = ["MAX_BYTES", "Workflow", "WorkflowInvalid", "Workflows"]

"""Workflow files: `format` converts them to prompts, `binding` finds where a request goes, `store` keeps the folder."""

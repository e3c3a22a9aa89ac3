"""Keeps ComfyUI's page from offering the repository's workflow files as templates."""

import glob
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .settings import PROJECT


def hide_files() -> None:
    """Takes the files of the repository's workflows/ and examples/ out of ComfyUI's list of templates.

    ComfyUI lists the JSON files of every folder of a pack that has such a name, and offers no way to say that they are
    not made for its page. The templates are in example_workflows/.
    """
    manager = sys.modules.get("app.custom_node_manager")
    if hasattr(manager, "glob"):
        hidden = {PROJECT / name for name in ("workflows", "examples")}

        def visible(pattern: str, **options: Any) -> list[str]:
            return [path for path in glob.glob(pattern, **options) if Path(path).parent.resolve() not in hidden]

        manager.glob = SimpleNamespace(**vars(glob) | {"glob": visible})  # type: ignore[union-attr]

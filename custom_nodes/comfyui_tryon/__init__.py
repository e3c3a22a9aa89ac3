"""ComfyUI as a virtual try-on API: loaded as a node pack, it adds the nodes and, on ComfyUI's server, the routes.

docs/architecture.md follows a request through the files.
"""

import logging
import os
import sys

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]


def _join_comfyui() -> None:
    from server import PromptServer

    from . import nodes
    from .engine import install
    from .engine.comfyui import ComfyUIEngine
    from .server import Server
    from .settings import settings

    NODE_CLASS_MAPPINGS.update(nodes.NODE_CLASS_MAPPINGS)
    NODE_DISPLAY_NAME_MAPPINGS.update(nodes.NODE_DISPLAY_NAME_MAPPINGS)
    Server(settings(), install(ComfyUIEngine())).attach(PromptServer.instance.app)


def _locked() -> bool:
    """Reads TRYON_LOCKED itself, because the settings may be what fails; what is unclear counts as locked."""
    return os.environ.get("TRYON_LOCKED", "").strip().lower() not in ("", "0", "false", "no", "off")


# In a command or a test there is no server to join, and the package must import without torch.
if getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None):
    try:
        _join_comfyui()
    except Exception:
        if not _locked():
            raise
        # ComfyUI catches what a pack raises, and would go on to serve all of its own routes to everybody.
        logging.exception("The try-on API could not be set up, and TRYON_LOCKED forbids ComfyUI to run without it.")
        sys.exit(1)

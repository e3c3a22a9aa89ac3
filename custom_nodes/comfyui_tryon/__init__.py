"""ComfyUI as a virtual try-on API: loaded as a node pack, it adds the nodes and, on ComfyUI's server, the routes.

docs/architecture.md follows a request through the files.
"""

import sys

if getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None):  # else a command or a test
    from server import PromptServer

    from .engine import install
    from .engine.comfyui import ComfyUIEngine
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
    from .server import Server
    from .settings import settings

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]

    WEB_DIRECTORY = "./web"

    Server(settings(), install(ComfyUIEngine())).attach(PromptServer.instance.app)

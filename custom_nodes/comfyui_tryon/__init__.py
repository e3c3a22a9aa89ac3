"""ComfyUI as a virtual try-on API: loaded as a node pack, it adds the nodes and, on ComfyUI's server, the routes.

A request's way: server.py (middleware) -> api.py (handlers), body.py and schema.py (what came in) -> tryon.py ->
workflows.py (the graph) -> engine/ (ComfyUI's queue) -> nodes.py -> catvton/ and masker/ (the models) -> pictures.py.
"""

from .engine import current, in_comfyui

if in_comfyui():  # elsewhere the commands of this package start without torch
    from server import PromptServer

    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
    from .server import Server
    from .settings import settings

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]

    WEB_DIRECTORY = "./web"

    Server(settings(), current()).attach(PromptServer.instance.app)

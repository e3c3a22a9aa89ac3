"""ComfyUI as a virtual try-on API: loaded as a custom node pack, it adds the nodes and, on ComfyUI's server, the routes.

A request's way: server.py (middleware) -> api.py (handlers), body.py and schema.py (what came in) -> tryon.py ->
workflows.py (the graph) -> engine/ (ComfyUI's queue) -> nodes.py -> catvton/ and masker/ (the models) -> pictures.py.
"""

from .engine import current, in_comfyui
from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

if in_comfyui():
    from server import PromptServer

    from .server import Server
    from .settings import settings

    Server(settings(), current()).attach(PromptServer.instance.app)

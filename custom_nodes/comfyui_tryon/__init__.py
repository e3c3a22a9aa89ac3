"""ComfyUI as a virtual try-on API: loaded as a node pack, it adds the nodes and, on ComfyUI's server, the routes.

docs/architecture.md follows a request through the files.
"""

import logging
import sys
from pathlib import Path

from .guard import check_packs, locked

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
WEB_DIRECTORY: str | None = None

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]


def _join_comfyui() -> None:
    global WEB_DIRECTORY
    import folder_paths
    import nodes as host
    from comfy.cli_args import args
    from server import PromptServer

    folder = Path(__file__).parent
    if other := getattr(PromptServer.instance, "tryon_folder", None):
        if folder != other:  # start.sh in a clone in custom_nodes has ComfyUI load the clone, and the pack in it
            logging.warning("The try-on pack in %s is not loaded: %s already is. Remove one of the two.", folder, other)
        return
    PromptServer.instance.tryon_folder = folder
    from . import nodes, templates
    from .demo import offer_samples
    from .engine import install
    from .engine.comfyui import ComfyUIEngine
    from .server import Server
    from .settings import host_listens, settings

    if locked():
        check_packs(settings().pack_names(), folder_paths.get_folder_paths("custom_nodes"))
    host_listens(args.listen, args.port)
    taken = nodes.PUBLISHED.keys() & host.NODE_CLASS_MAPPINGS.keys()
    NODE_CLASS_MAPPINGS.update({name: cls for name, cls in nodes.NODE_CLASS_MAPPINGS.items() if name not in taken})
    # A pack that is loaded later may take the published names, and would be displayed as this one.
    for name in nodes.NODE_DISPLAY_NAME_MAPPINGS.keys() - nodes.PUBLISHED.keys():
        NODE_DISPLAY_NAME_MAPPINGS[name] = nodes.NODE_DISPLAY_NAME_MAPPINGS[name]
    engine = ComfyUIEngine()
    Server(settings(), install(engine)).attach(PromptServer.instance.app)
    if not settings().locked:  # where there is a page
        templates.hide_files()
        offer_samples(engine.input_folder())
    WEB_DIRECTORY = "./web"


# In a command or a test there is no server to join, and the package must import without torch.
if getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None):
    try:
        _join_comfyui()
    except Exception as error:
        if not locked():
            raise
        # ComfyUI catches what a pack raises, and would go on to serve all of its own routes to everybody.
        if type(error).__name__ not in ("SettingsError", "LookupError"):  # whose messages say it all
            logging.exception("The try-on API could not be set up.")
        sys.exit(f"{error}. TRYON_LOCKED forbids ComfyUI to run without the try-on API.")

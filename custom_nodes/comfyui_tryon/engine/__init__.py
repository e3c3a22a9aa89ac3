"""The seam between this pack and what executes its prompts: ComfyUI, or the embedded engine where there is none.

The API queues `Run`s and awaits them; the nodes ask for devices, progress and folders. Neither knows which engine runs:
whoever starts the process installs one, and `current()` returns it.
"""

from .interface import Engine

_installed: list[Engine] = []


def install(engine: Engine) -> Engine:
    """Makes `engine` the engine of this process; returns it."""
    _installed[:] = [engine]
    return engine


def current() -> Engine:
    """The engine of this process.

    Raises:
        RuntimeError: none is installed.
    """
    if not _installed:
        raise RuntimeError("No engine is installed: start ComfyUI with this pack, or `python -m comfyui_tryon`.")
    return _installed[0]

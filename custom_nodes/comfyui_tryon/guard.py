"""Runs ComfyUI's main.py so that a locked process never serves without the lock: `python guard.py main.py ARGUMENTS`.

ComfyUI goes on without a pack that fails, is missing or is not whitelisted, and would serve all of its own routes to
everybody. So no socket may listen here until the lock is in place. start.sh runs this file by its path, because a
module's name could be shadowed, and it imports nothing but Python's own modules.
"""

import argparse
import contextlib
import errno
import importlib.util
import logging
import os
import re
import runpy
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

CANNOT_LISTEN = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)
LIBRARY = re.compile(rf"<|{re.escape(os.path.dirname(os.__file__))}|.*[/\\](site|dist)-packages[/\\]")


def locked() -> bool:
    """Reads TRYON_LOCKED itself, because the settings may be what fails; what is unclear counts as locked."""
    given = [value.strip().lower() for name, value in os.environ.items() if name.upper() == "TRYON_LOCKED"]
    return any(value not in ("", "0", "false", "no", "off", "f", "n") for value in given)


def close_ports(comfyui: Path) -> None:
    """Makes this process end instead of opening a port, until `open_ports` is called.

    Args:
        comfyui: the folder of ComfyUI's code, to tell whether that or a node pack opens one.
    """
    listen = socket.socket.listen

    def refuse(self: socket.socket, *backlog: int) -> None:
        if self.family not in (socket.AF_INET, socket.AF_INET6):
            return listen(self, *backlog)
        caller = _caller()
        if caller and (comfyui not in caller.parents or comfyui / "custom_nodes" in caller.parents):
            logging.critical(
                "%s opens a port before comfyui_tryon is loaded, which TRYON_LOCKED forbids. Take the node pack that "
                "has this file out of TRYON_PACKS.",
                caller,
            )
        else:
            logging.critical(
                "comfyui_tryon could not be loaded, and TRYON_LOCKED forbids ComfyUI to serve without it. Look above "
                "for the reason, and for arguments after -- that keep it from being loaded."
            )
        end(1)  # not an exception: somebody may catch it, or it may be raised in a thread

    socket.socket.listen = refuse  # type: ignore[method-assign, assignment]


def _caller() -> Path | None:
    """Returns the innermost file on the stack that is neither this one nor a library's."""
    frame: FrameType | None = sys._getframe()
    while frame:
        name = frame.f_code.co_filename
        if not LIBRARY.match(name) and name != _caller.__code__.co_filename:
            return Path(name).resolve()
        frame = frame.f_back
    return None


def open_ports() -> None:
    """Lets this process listen again. The pack calls this, in which this module exists under another name."""
    if "listen" in vars(socket.socket):  # without `close_ports` it is inherited from C
        del socket.socket.listen


def check_packs(names: Iterable[str], folders: Iterable[str]) -> None:
    """Checks that every node pack in TRYON_PACKS exists, since ComfyUI says nothing of names that match none.

    Args:
        names: folders, or single .py files, as ComfyUI's --whitelist-custom-nodes takes them.
        folders: the folders that hold ComfyUI's packs.

    Raises:
        LookupError: the message names the packs that are not there, and those that are.
    """
    found = set()
    for folder in filter(os.path.isdir, folders):
        for path in Path(folder).iterdir():
            if path.suffix != ".disabled" and (path.suffix == ".py" or (path / "__init__.py").is_file()):
                found.add(path.name)
    absent = [name for name in names if name not in found]
    if absent:
        raise LookupError(
            f"TRYON_PACKS names {', '.join(map(repr, absent))}, and ComfyUI's custom_nodes has no such pack. "
            f"It has {', '.join(sorted(found)) or 'none'}. Install the pack, or correct the name"
        )


def combined(arguments: list[str]) -> list[str]:
    """Makes of several --whitelist-custom-nodes one, since ComfyUI takes the last only; the pack's settings follow
    a --port and a --listen."""
    parser = argparse.ArgumentParser(add_help=False)  # takes abbreviations, as ComfyUI's does
    parser.add_argument("--whitelist-custom-nodes", nargs="+", action="extend", default=[])
    parser.add_argument("--port")
    parser.add_argument("--listen", nargs="?", const="0.0.0.0,::")
    given, others = parser.parse_known_args(arguments)
    for name, value in (("port", given.port), ("listen", given.listen)):
        if value is not None:
            others += [f"--{name}", value]
            os.environ[name.upper()] = value
    nodes = list(dict.fromkeys(given.whitelist_custom_nodes))
    return [*others, "--whitelist-custom-nodes", *nodes] if nodes else others


@contextlib.contextmanager
def ending_when_told(leave: Callable[[int], Any] | None = None) -> Iterator[None]:
    """Ends the process at a SIGTERM, by `end` or another way, and without a traceback at a Ctrl-C that nothing within
    catches.

    As the first process of a container, one that is still loading would ignore SIGTERM.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: (leave or end)(128 + number))
    try:
        yield
    except KeyboardInterrupt:
        _end_by(signal.SIGINT)


def _end_by(number: int) -> None:
    """Ends the process by a signal, as a shell that waits for it expects; by status where that cannot be."""
    _flush()
    if os.name == "posix":
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # without effect on the first process of a container
    end(128 + number)


@ending_when_told()
def main() -> None:
    here, script = str(Path(__file__).resolve().parent), sys.argv[1]
    sys.path[:] = [str(Path(script).resolve().parent), *(folder for folder in sys.path if folder != here)]
    sys.argv = [script, *combined(sys.argv[2:])]
    if not locked():
        runpy.run_path(script, run_name="__main__")
        return
    close_ports(Path(script).resolve().parent)
    _begin_log()
    status = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as left:
        if isinstance(left.code, str):
            logging.critical(left.code)
        status = 1 if left.code else 0
    except OSError as error:
        trace = error.errno not in CANNOT_LISTEN
        logging.critical("Cannot start: %s. PORT and LISTEN say where to listen.", error.strerror, exc_info=trace)
        status = 1
    except KeyboardInterrupt:
        raise
    except BaseException:
        logging.critical("ComfyUI has ended.", exc_info=True)
        status = 1
    end(status)


def _begin_log() -> None:
    """Has log.py format what this process logs."""
    spec = importlib.util.spec_from_file_location("tryon_log", Path(__file__).with_name("log.py"))
    assert spec and spec.loader
    log = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(log)
    log.begin(log.is_json())


def end(status: int) -> None:
    """Ends the process now. An ordinary exit would wait for threads that decode images or are inside torch."""
    _flush()
    os._exit(status)


def _flush() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    main()

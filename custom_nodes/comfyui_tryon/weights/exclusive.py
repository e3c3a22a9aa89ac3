"""Lets one process at a time fetch into a folder: two would append to the same partial files."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

BUSY = ".tryon-download"


@contextlib.contextmanager
def alone(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Waits until no other process is at a folder; `on_wait` is called first if one is.

    Does not, where there can be no lock: a folder that cannot be written to may be complete all the same.
    """
    from filelock import FileLock, Timeout  # which huggingface_hub needs

    lock = FileLock(folder / BUSY)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        lock.release()

"""What the operating system lets this process have: open files, and memory that it has freed."""

import contextlib
import ctypes
import os
import sys

UNLIMITED = 1_000_000


def raise_file_limit() -> int:
    """Lets this process open as many files as it is allowed to, and returns how many more that is."""
    if sys.platform == "win32":
        return UNLIMITED
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return UNLIMITED
    return soft - len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else soft


def return_memory() -> None:
    """Gives what has been freed back to the system: glibc keeps blocks of up to 32 MB, thus dropped replies."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)

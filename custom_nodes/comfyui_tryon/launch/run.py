"""Runs a module as `python -m` does, but with the packs' folder on the path in place of the caller's, and so that it
ends when it is told to.

A secrets.py where somebody calls start.sh would take the place of Python's own. Python 3.10 has no -P against that.
"""

import os
import runpy
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PACKS = os.path.dirname(os.path.dirname(HERE))


def main() -> None:
    """Runs the module that the first argument names, with the other arguments."""
    sys.path[:] = [PACKS, *(folder for folder in sys.path if folder not in (HERE, os.path.realpath(HERE)))]
    del sys.argv[0]
    from comfyui_tryon.guard import ending_when_told

    with ending_when_told():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before guard.py could take care of it
        os._exit(130)

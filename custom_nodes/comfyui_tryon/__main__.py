"""`python -m comfyui_tryon` serves the API without ComfyUI; with a mode, such as --demo, it does what start.sh does."""

import sys

from .guard import ending_when_told


@ending_when_told()
def main() -> None:
    """Serves the API on the embedded engine."""
    from .standalone import serve  # needs the packages, which a mode may have yet to install

    serve()


if __name__ == "__main__":
    if sys.argv[1:]:
        from .launch import modes

        modes.main(sys.argv[1:])
    main()

"""Sets up and starts the server: `./start.sh`, and `python -m comfyui_tryon MODE` where there is no bash.

It imports nothing but Python's own modules, because it runs before anything is installed.
"""

"""The embedded engine with the probe's nodes: `python -m probe`."""

from comfyui_tryon import nodes
from comfyui_tryon.__main__ import main

from . import NODE_CLASS_MAPPINGS

nodes.NODE_CLASS_MAPPINGS.update(NODE_CLASS_MAPPINGS)
main()

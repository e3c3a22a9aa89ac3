"""Hands the pack in custom_nodes/comfyui_tryon to a ComfyUI into whose custom_nodes/ this repository was cloned."""

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
WEB_DIRECTORY = None

if __package__:  # empty for tools that import every __init__.py they find, such as pytest
    from .custom_nodes import comfyui_tryon as pack

    NODE_CLASS_MAPPINGS = pack.NODE_CLASS_MAPPINGS
    NODE_DISPLAY_NAME_MAPPINGS = pack.NODE_DISPLAY_NAME_MAPPINGS
    WEB_DIRECTORY = pack.WEB_DIRECTORY and f"custom_nodes/comfyui_tryon/{pack.WEB_DIRECTORY}"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]

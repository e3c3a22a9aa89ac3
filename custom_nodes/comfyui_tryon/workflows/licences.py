"""Finds out under which licences the models of a graph may be used."""

from collections.abc import Mapping
from typing import Any

from ..engine.interface import is_link
from ..nodes import NODE_CLASS_MAPPINGS
from ..weights.files import HUMAN_PARSER, LICENCES, Licence
from ..weights.loaders import LOADERS
from ..weights.search import DEMO

DEMO_LICENCE = Licence("GPL-3.0-or-later", True)  # the demo weights are part of this pack
MODEL_TYPES = {"MODEL", "CLIP", "VAE", "CLIP_VISION", "CONTROL_NET", "STYLE_MODEL", "UPSCALE_MODEL"}


def licence_of(graph: Mapping[str, dict[str, Any]], classes: Mapping[str, type[Any]]) -> Licence | None:
    """Returns the licence of all models of a graph together; None if it has no model.

    Weights count as what their loader is made for, wherever they lie. Models that another pack's node loads have an
    unknown licence, so that nobody takes them for free.

    Args:
        graph: a prompt.
        classes: those of its nodes, by their names.
    """
    found: dict[str, Licence] = {}
    for entry in graph.values():
        name = entry["class_type"]
        if loader := LOADERS.get(name):
            given = {key: entry["inputs"].get(key) for key in loader.defaults}
            values = {key: value if isinstance(value, str) else loader.defaults[key] for key, value in given.items()}
            is_demo = any(value.startswith(DEMO) for value in values.values())
            licences = [DEMO_LICENCE] if is_demo else [LICENCES[source] for source in loader.sources(**values)]
        elif name == "TryOnFashn" and _parses(entry["inputs"]):
            licences = [LICENCES[HUMAN_PARSER]]
        elif name not in NODE_CLASS_MAPPINGS and _loads_model(classes.get(name), entry["inputs"]):
            licences = [Licence(f"unknown, of what {name} loads", False)]
        else:
            licences = []
        found |= {str(licence): licence for licence in licences}
    if not found:
        return None
    return Licence("; ".join(found), all(licence.commercial_use for licence in found.values()))


def _parses(inputs: Mapping[str, Any]) -> bool:
    """Whether a TryOnFashn with these inputs always needs the human parser."""
    worn = inputs.get("garment_photo") == "model" and not is_link(inputs.get("garment_mask"))
    return worn or (inputs.get("segmentation_free") is False and not is_link(inputs.get("mask")))


def _loads_model(cls: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether a node gives a model without being given one."""
    returns = getattr(cls, "RETURN_TYPES", ())
    gives = any(isinstance(kind, str) and kind in MODEL_TYPES for kind in returns)
    return gives and not any(is_link(value) for value in inputs.values())

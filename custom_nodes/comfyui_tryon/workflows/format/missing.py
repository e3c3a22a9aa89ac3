"""Says of nodes whose class is not loaded where to get it: from a pack, a newer ComfyUI, or another kind of file."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .checks import NodeClasses, WorkflowInvalid, describe, shown

MAX_CLASSES = 40
CORE_PACK = "comfy-core"
CORE_NODES = Path(__file__).with_name("core_nodes.txt")
INSTALL = "into ComfyUI's custom_nodes folder, list its folder in TRYON_PACKS, and restart"
REMEDIES = {
    "group": "a legacy group node that cannot be expanded: open the workflow in ComfyUI's web page, turn it into a "
    "subgraph and save again",
    "subgraph": "a subgraph whose definition is not in the file: save the whole workflow again from the web page",
    "comfyui": "ComfyUI's own nodes, and this server runs without ComfyUI: set COMFYUI_DIR and restart",
    "service": "nodes that call paid services over the internet, which are switched off here: replace them",
    "newer": "ComfyUI's own nodes, which this ComfyUI lacks: update ComfyUI",
    "pack": f"no node class of that name is loaded. Put the node pack that it comes from {INSTALL}",
    "named": f"not loaded here. Put the pack {INSTALL}",
}


class ClassMissing(WorkflowInvalid):
    """A node's class is not loaded.

    Attributes:
        node: how messages name the node, with the pack that the file says it comes from.
        node_type: the name of its class.
        kind: a key of REMEDIES.
    """

    def __init__(self, node: str, node_type: str, kind: str) -> None:
        super().__init__(f"{node}: {REMEDIES[kind]}")
        self.node, self.node_type, self.kind = node, node_type, kind


def missing(
    node_id: str, node_type: str, title: str | None, node_classes: NodeClasses, properties: Mapping[str, Any] = {}
) -> ClassMissing:
    """Returns the error for a node whose class is not loaded; `properties` are the ones that the page saves."""
    node = describe(node_id, node_type, title)
    given = (properties.get(key) for key in ("cnr_id", "aux_id"))
    pack = next((value for value in given if isinstance(value, str) and value), None)
    version = properties.get("ver")
    known = _core_nodes().get(node_type)
    if re.match("workflow[>/]", node_type):
        return ClassMissing(node, node_type, "group")
    if re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", node_type):
        return ClassMissing(node, node_type, "subgraph")
    if pack == CORE_PACK or (pack is None and known):
        if isinstance(version, str) and version:
            node += f" of ComfyUI {shown(version)[1:-1]}"
        kind = known if known == "service" else "newer"
        return ClassMissing(node, node_type, kind if "KSampler" in node_classes else "comfyui")
    if pack is None or pack == node_type:  # GetNode and the like call themselves their pack
        return ClassMissing(node, node_type, "pack")
    return ClassMissing(f"{node} of the pack {shown(pack)[1:-1]}", node_type, "named")


def all_missing(faults: Iterable[ClassMissing]) -> WorkflowInvalid:
    """Returns one error that names every missing class once, with what to do about each kind."""
    kinds: dict[str, dict[str, str]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, {}).setdefault(fault.node_type, fault.node)
    parts = []
    for kind, nodes in kinds.items():
        named = list(nodes.values())
        more = f" and {len(named) - MAX_CLASSES} more" if len(named) > MAX_CLASSES else ""
        parts.append(f"{', '.join(named[:MAX_CLASSES])}{more}: {REMEDIES[kind]}")
    return WorkflowInvalid("; ".join(parts))


@cache
def _core_nodes() -> dict[str, str]:
    """Returns "newer" or "service" by the name of each node class that a recent ComfyUI has."""
    kind, names = "newer", {}
    for line in CORE_NODES.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            kind = "service" if "paid services" in line else "newer"
        elif line:
            names[line] = kind
    return names

"""Knows the kinds of nodes that exist only in the web page: scripts make them, and a prompt never has them."""

import re

from .checks import NodeClasses

NOTES = frozenset({"Note", "MarkdownNote"})
CORE = NOTES | {"Reroute", "PrimitiveNode"}
SWITCHES = frozenset(
    f"{name} (rgthree)"
    for name in (
        "Label|Bookmark|Fast Muter|Fast Node Muter|Fast Bypasser|Fast Groups Muter|Fast Groups Bypasser|"
        "Fast Actions Button|Mute / Bypass Relay|Mute / Bypass Repeater|Random Unmuter|Node Collector|Node Combiner"
    ).split("|")
)
# SetNode and GetNode of KJNodes; other packs put a word of their own before or behind the names.
SET_OR_GET = re.compile(r"(|.*[^A-Za-z])([SsGg])et(Node(?![a-z]).*)", re.DOTALL)
REROUTE = re.compile(r"re-?route", re.IGNORECASE)
USE_EVERYWHERE = re.compile("(Anything|Prompts?) Everywhere")


def is_page_only(node_type: str, node_classes: NodeClasses) -> bool:
    """Returns whether the node is the page's own, or one that a pack's script adds to it."""
    if node_type in CORE:
        return True
    return node_type not in node_classes and bool(
        node_type in SWITCHES
        or SET_OR_GET.fullmatch(node_type)
        or REROUTE.search(node_type)
        or USE_EVERYWHERE.match(node_type)
    )


def setter_of(node_type: str) -> str | None:
    """Returns the type of the Set nodes that belong to a type of Get nodes, or None if it is no such type."""
    match = SET_OR_GET.fullmatch(node_type)
    if match is None or match[2] not in "Gg":
        return None
    return f"{match[1]}{'S' if match[2] == 'G' else 's'}et{match[3]}"

"""Turns a widget's saved value into the one that the page sends, which for some widgets is another."""

import copy
import re
from typing import Any

from .checks import shown
from .graph import Node
from .widgets import SCRIPTED_KINDS, Input

PREFIX_FILLED_BY_PAGE = re.compile(r"%date:[^%]*%|%[^%.]+\.[^%.]+%")
SAVES_WITH_PREFIX = frozenset(
    "SaveImage SaveImageAdvanced SaveSVGNode SaveVideo SaveAnimatedWEBP SaveWEBM SaveAudio SaveAudioMP3 SaveAudioOpus "
    "SaveAudioAdvanced SaveGLB Save3DAdvanced SaveGaussianSplat SavePointCloud SaveAnimatedPNG CLIPSave VAESave "
    "ModelSave LoraSave SaveLatent".split()
)


def sent(node: Node, name: str, value: Any, spec: Input | None) -> Any:
    """Returns a widget's value as the page sends it; values that the page makes only when it queues are refused."""
    if spec and spec.kind in SCRIPTED_KINDS:
        raise node.error(
            f"the widget {shown(name)} ({spec.kind}) gets its value from a script in the page: feed it from another "
            "node, or export the workflow in the API format"
        )
    if isinstance(value, str):
        if spec and spec.options.get("dynamicPrompts") is True:
            value = _plain_prompt(node, name, value)
        elif name == "filename_prefix" and node.type in SAVES_WITH_PREFIX and PREFIX_FILLED_BY_PAGE.search(value):
            raise node.error("the page fills in the %…% parts of filename_prefix when it queues: write a plain prefix")
    return wrapped(value, spec)


def wrapped(value: Any, spec: Input | None) -> Any:
    """Returns a copy of a widget's value; lists are wrapped, because a bare list in a prompt is a link."""
    if not isinstance(value, list):
        return copy.deepcopy(value)
    wrapper = {"__type__": "CURVE"} if spec and spec.kind == "CURVE" else {}
    return wrapper | {"__value__": copy.deepcopy(value)}


def _plain_prompt(node: Node, name: str, text: str) -> str:
    """Returns the text of a dynamic prompt without comments and braces; a real choice is refused."""
    plain: list[str] = []
    depth = 0
    for part in re.finditer(r"\\[\s\S]|[{}|]|[^\\{}|]+|\\", _without_comments(text)):
        token = part.group()
        if token == "{":
            depth += 1
        elif token == "}" and depth:
            depth -= 1
        elif token == "|" and depth:
            raise node.error(
                f"the text of {shown(name)} has a {{a|b}} choice, which the page draws at random each time it "
                "queues: write one of them"
            )
        else:
            plain.append(token[1:] if token in ("\\{", "\\}", "\\|") else token)
    return "".join(plain)


def _without_comments(text: str) -> str:
    """Returns the text without `/* … */` and `// …` comments."""
    kept: list[str] = []
    position, comment = 0, re.compile(r"/\*|//[^\n\r\u2028\u2029]*")
    while found := comment.search(text, position):
        end = found.end()
        if found.group() == "/*":
            end = text.find("*/", end) + 2
            if end < 2:  # never closed, nor are those that follow: stop looking, or this takes quadratic time
                comment, end = re.compile(r"//[^\n\r\u2028\u2029]*"), found.start() + 1
                kept.append(text[position:end])
                position = end
                continue
        kept.append(text[position : found.start()])
        position = end
    return "".join(kept) + text[position:]

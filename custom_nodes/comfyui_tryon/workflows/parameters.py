"""Finds what a graph makes of a request's parameters: where they go, as which values, and which images have seeds."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from ..engine.interface import is_link
from ..nodes import NODE_CLASS_MAPPINGS
from ..schema import GARMENT_CATEGORIES, PARAMETER_WORDS, PARAMETERS, SIDE_MAX, SIDE_MIN, SIDE_STEP
from .format import WorkflowInvalid
from .format.checks import TAG, describe

OF_CATEGORY = {category: cloth_type for cloth_type, category in reversed(GARMENT_CATEGORIES.items())}

# Whether the images of an output depend on no seed, on the request's as a whole, or each on one of its own.
Seeding = Literal["none", "one", "each"]
Places = Mapping[str, Sequence[tuple[str, str]]]


def find_parameters(
    graph: Mapping[str, dict], classes: Mapping[str, type[Any]] = NODE_CLASS_MAPPINGS
) -> dict[str, list[tuple[str, str]]]:
    """Returns the (node id, input name) pairs that each parameter replaces: on the pack's own and on tagged nodes.

    `classes` are those of all nodes: another pack's may have the name of one of this pack's, and other inputs.
    """
    parameters: dict[str, list[tuple[str, str]]] = {}
    present = {NODE_CLASS_MAPPINGS.get(entry["class_type"]) for entry in graph.values()}
    fixed = {name for cls in present for name in getattr(cls, "FIXED", ())}
    for node, entry in graph.items():
        own = inputs_of(entry["class_type"], "required", "optional")
        replaceable = _tagged(node, entry) | ((own & _declared(classes.get(entry["class_type"])).keys()) - fixed)
        for parameter, names in PARAMETERS.items():
            for name in names:
                # linked inputs stay linked: the author chose where their values come from
                if name in replaceable and not is_link(entry["inputs"].get(name)):
                    parameters.setdefault(parameter, []).append((node, name))
    # without a node that pastes, a crop changes what the sampler sees and not the frame of the reply
    if all(graph[node]["class_type"] == "TryOnCrop" for node, _ in parameters.get("framing", ())):
        parameters.pop("framing", None)
    return parameters


def inputs_of(class_type: str, *kinds: str) -> set[str]:
    """Returns the names of the required, optional or hidden inputs of one of the pack's own nodes."""
    cls = NODE_CLASS_MAPPINGS.get(class_type)
    declared = cls.INPUT_TYPES() if cls else {}
    return {name for kind in kinds for name in declared.get(kind, ())}


def _tagged(node: str, entry: dict) -> set[str]:
    """Returns the names of the inputs that a title such as `Sampler [tryon: seed, steps]` lists."""
    # splitting, not a pattern, because a title can have megabytes
    _, tag, listed = title_of(entry).rstrip().rpartition(TAG)
    if not tag:
        return set()
    if not listed.endswith("]"):
        raise WorkflowInvalid(f"the title of node {node} has {TAG + listed[:64]!r}, but does not end in ]: end it so")
    names = {name for part in listed[:-1].split(",") if (name := part.strip())}
    known = set(chain(*PARAMETERS.values()))
    for name in sorted(names):
        where = f"node {node} is tagged with {name[:64]!r}, which"
        if name not in known:
            raise WorkflowInvalid(f"{where} requests cannot set; they can set {', '.join(sorted(known))}")
        if name not in entry["inputs"]:
            raise WorkflowInvalid(f"{where} it has no value for; it has {', '.join(entry['inputs'])}")
        if is_link(entry["inputs"][name]):
            raise WorkflowInvalid(f"{where} is linked; requests replace only values, so remove the link or the tag")
    return names


def title_of(entry: dict) -> str:
    """Returns the title that a node has in the page, or an empty one."""
    return str(entry.get("_meta", {}).get("title", ""))


def as_input(name: str, value: Any) -> Any:
    """Returns a parameter's value as the node input `name` takes it."""
    if name == "square":
        return value == "box"
    return GARMENT_CATEGORIES[value] if name == "category" else value


def as_parameter(name: str, value: Any) -> Any:
    """Returns what a request would send for the value of the node input `name`; the reverse of `as_input`."""
    if name == "square":
        return "box" if value else "outline"
    return OF_CATEGORY.get(value, value) if name == "category" and isinstance(value, str) else value


def with_defaults(
    graph: Mapping[str, dict], parameters: Places, classes: Mapping[str, type[Any]]
) -> dict[str, dict[str, Any]]:
    """Returns `graph` with the values that its nodes have by default for parameters that its file leaves out."""
    graph = {**graph}
    for node, name in chain.from_iterable(parameters.values()):
        default = _options(classes.get(graph[node]["class_type"]), name).get("default")
        if default is not None and name not in graph[node]["inputs"]:
            graph[node] = {**graph[node], "inputs": {**graph[node]["inputs"], name: default}}
    return graph


def seeding(
    graph: Mapping[str, dict], needed: Iterable[str], parameters: Places, classes: Mapping[str, type[Any]]
) -> Seeding:
    """Finds out which seeds make the images of an output.

    Only this pack's samplers count a seed up over the images that they are asked for.

    Args:
        needed: ids of the nodes that the output depends on.
        parameters: for each parameter of a request, the (node id, input name) pairs that it replaces.
    """
    seeded = {node for node, _ in parameters.get("seed", ())} & set(needed)
    if not seeded:
        return "none"
    counting = {node for node, _ in parameters.get("num_images", ())}
    kinds = {graph[node]["class_type"] for node in seeded}
    own = all(kind in NODE_CLASS_MAPPINGS and classes.get(kind) is NODE_CLASS_MAPPINGS[kind] for kind in kinds)
    return "each" if own and seeded <= counting else "one"


def limits(
    graph: Mapping[str, dict], parameters: Places, classes: Mapping[str, type[Any]]
) -> dict[str, tuple[float, float]]:
    """Returns the least and greatest value that the nodes take for each numeric parameter; they may be infinite."""
    found = {}
    for parameter, places in parameters.items():
        low, high = float("-inf"), float("inf")
        for node, name in places:
            options = _options(classes.get(graph[node]["class_type"]), name)
            low, high = max(low, _number(options.get("min"), low)), min(high, _number(options.get("max"), high))
        if low <= high and (low, high) != (float("-inf"), float("inf")):
            found[parameter] = low, high
    return found


def choices(
    graph: Mapping[str, dict], parameters: Places, classes: Mapping[str, type[Any]]
) -> dict[str, Sequence[str]]:
    """Returns the words that the nodes take for each parameter of which they do not take all.

    Raises:
        WorkflowInvalid: they take none of them.
    """
    found: dict[str, Sequence[str]] = {}
    for parameter, words in PARAMETER_WORDS.items():
        taken: Sequence[str] = words
        for node, name in parameters.get(parameter, ()):
            kind = graph[node]["class_type"]
            offered = _choices(classes.get(kind), name)
            wanted = dict.fromkeys(as_input(name, word) for word in taken)
            taken = [word for word in taken if offered is None or as_input(name, word) in offered]
            if not taken:
                raise WorkflowInvalid(
                    f"{describe(node, kind, title_of(graph[node]))}: requests set its {name} to "
                    f"{' or '.join(map(str, wanted))}, and it takes none of these: link a node to it that gives what "
                    "it takes, or remove it from the tag in the title"
                )
        if len(taken) < len(words):
            found[parameter] = taken
    return found


def with_aspect_ratio(values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `values` with the width that a height alone goes with, or the reverse.

    Args:
        values: of a request's parameters.
        own: the workflow's width and height, as far as it has them.

    Raises:
        ValueError: that side would be out of range; the message says what to send.
    """
    given = {side: values[side] for side in ("width", "height") if values.get(side) is not None}
    if len(given) != 1 or not all(isinstance(own.get(side), int) for side in ("width", "height")):
        return dict(values)
    ((side, length),) = given.items()
    other = "height" if side == "width" else "width"
    wanted = SIDE_STEP * round(length * own[other] / own[side] / SIDE_STEP)
    if not SIDE_MIN <= wanted <= SIDE_MAX:
        raise ValueError(
            f"{side} {length} alone would make the {other} {wanted}, which must be from {SIDE_MIN} to {SIDE_MAX}. Send "
            f"another {side}, or width and height"
        )
    return {**values, other: wanted}


def _declared(cls: Any) -> dict[str, Any]:
    """Returns the inputs of a node class, or none of None."""
    declared = cls.INPUT_TYPES() if cls else {}
    return {**declared.get("optional", {}), **declared.get("required", {})}


def _options(cls: Any, name: str) -> Mapping[str, Any]:
    spec = _declared(cls).get(name, ())
    return spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}


def _choices(cls: Any, name: str) -> Sequence[Any] | None:
    """Returns what a node may have for an input that offers a choice; None if it is another, or checked by the node."""
    spec = _declared(cls).get(name) or (None,)
    for check in (getattr(cls, method, None) for method in ("VALIDATE_INPUTS", "validate_inputs")):
        if check is None or check.__module__.startswith("comfy_api."):  # which a node has not overridden
            continue
        arguments = inspect.getfullargspec(check)  # hosts leave the inputs to it that it names
        if name in arguments.args or arguments.varkw is not None:
            return None
    if isinstance(spec[0], (list, tuple)):
        return spec[0]
    return _options(cls, name).get("options") if spec[0] == "COMBO" else None


def _number(value: Any, otherwise: float) -> float:
    return value if isinstance(value, (int, float)) else otherwise

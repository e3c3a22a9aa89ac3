"""What a graph makes of a request's parameters: which seeds its images have, and which values its nodes take."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from ..nodes import NODE_CLASS_MAPPINGS
from ..schema import SIDE_MAX, SIDE_MIN, SIDE_STEP

# Whether the images of an output depend on no seed, on the request's as a whole, or each on one of its own.
Seeding = Literal["none", "one", "each"]
Places = Mapping[str, Sequence[tuple[str, str]]]


def seeding(graph: Mapping[str, dict], needed: Iterable[str], parameters: Places) -> Seeding:
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
    own = all(graph[node]["class_type"] in NODE_CLASS_MAPPINGS for node in seeded)
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


def _options(cls: Any, name: str) -> Mapping[str, Any]:
    declared = cls.INPUT_TYPES() if cls else {}
    spec = {**declared.get("optional", {}), **declared.get("required", {})}.get(name, ())
    return spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}


def _number(value: Any, otherwise: float) -> float:
    return value if isinstance(value, (int, float)) else otherwise

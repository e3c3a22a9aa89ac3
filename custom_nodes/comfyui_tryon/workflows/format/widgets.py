"""Reads widget values: which inputs of a class have a value saved in the file, and at which position."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .checks import NodeClasses, WorkflowInvalid, is_int, shown
from .graph import Node, slot_type
from .missing import missing

SAVED_KINDS = frozenset(
    "INT FLOAT STRING BOOLEAN COMBO COLOR COLORS CURVE RANGE BOUNDING_BOX BOUNDING_BOXES TEXTAREA MARKDOWN PAINTER "
    "COMPOSITOR CHART GALLERIA COMFY_DYNAMICCOMBO_V3".split()
)
SCRIPTED_KINDS = frozenset({"WEBCAM", "AUDIO_RECORD", "LOAD_3D", "LOAD_3D_ADVANCED", "LOAD_3D_ANIMATION"})
TEXT_KINDS = frozenset({"STRING", "TEXTAREA", "MARKDOWN", "COLOR", "PAINTER"})
IMPLICIT_DEFAULTS = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}
UPLOADS = ("image_upload", "video_upload", "animated_image_upload")
CONTROL_MODES = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
SHOWS_RESULTS = frozenset({"PreviewAny", "GetImageSize", "ImageCompare"})  # any further values are from a past run
ABSENT = object()


@dataclass(frozen=True)
class Input:
    """An entry of INPUT_TYPES, or of the selected option of a dynamic combo."""

    name: str
    kind: str  # of its widget, or the type of its socket
    type: str
    options: Mapping
    choices: tuple
    required: bool

    @property
    def is_widget(self) -> bool:
        known = self.kind in SAVED_KINDS or self.kind in SCRIPTED_KINDS or self.kind in ("IMAGECOMPARE", "CUSTOM")
        return known and not self.options.get("forceInput")

    @property
    def many(self) -> bool:
        return self.options.get("multi_select") not in (None, False) or self.options.get("multiselect") is True

    @property
    def helpers_before(self) -> int:
        """How many values of buttons the page saves before this input's own."""
        return 3 if self.kind == "LOAD_3D" and self.name == "image" else 0

    @property
    def helpers_after(self) -> int:
        if self.kind == "BOUNDING_BOX":
            return 4
        remote = self.options.get("remote") if self.kind == "COMBO" else None
        return 0 if not isinstance(remote, Mapping) else 2 if remote.get("refresh_button") else 1

    @property
    def controlled(self) -> bool:
        """Whether a control_after_generate widget follows, whose value the page saves too."""
        control = self.options.get("control_after_generate")
        if control is None and self.kind == "INT":
            return self.name in ("seed", "noise_seed")
        return bool(control) and self.kind in ("INT", "FLOAT", "COMBO")

    def fits(self, value: Any) -> bool:
        if self.kind == "INT":
            return is_int(value) or (isinstance(value, float) and value.is_integer())
        if self.kind == "FLOAT":
            return is_int(value) or isinstance(value, float)
        if self.kind in TEXT_KINDS:
            return isinstance(value, str)
        if self.kind == "BOOLEAN":
            return isinstance(value, bool)
        if self.kind == "COMBO":
            return value is not None and isinstance(value, list) == self.many
        return value is not None or self.kind == "CUSTOM"

    def default(self) -> Any:
        """Returns what the page shows if a file has no value for the widget; ABSENT if using that would be a guess."""
        if "default" in self.options:
            return self.options["default"]
        if self.kind == "COMFY_DYNAMICCOMBO_V3" or (self.kind == "COMBO" and not self.required and not self.many):
            return self.choices[0] if self.choices else ABSENT
        return ABSENT if self.required else IMPLICIT_DEFAULTS.get(self.kind, ABSENT)


def _helper(name: str) -> Input:
    """Returns a placeholder for a value that the page saves between the inputs' own and never sends."""
    return Input(name, "HELPER", "HELPER", {}, (), False)


def inputs_of_spec(spec: Mapping, prefix: str = "") -> list[Input]:
    """Returns the inputs of an INPUT_TYPES dict in the order in which the page makes their widgets."""
    found = []
    for category in ("required", "optional"):
        for name, entry in (spec.get(category) or {}).items():
            options = entry[1] if len(entry) > 1 and isinstance(entry[1], Mapping) else {}
            listed = isinstance(entry[0], (list, tuple))
            choices = entry[0] if listed else options.get("options") or ()
            socket = slot_type(entry[0])
            if socket == "COMFY_DYNAMICCOMBO_V3":
                choices = [choice["key"] for choice in choices]
            kind = str(options.get("widgetType") or socket)
            found.append(Input(prefix + name, kind, socket, options, tuple(choices), category == "required"))
    return found


class SavedValues:
    """Assigns a node's widgets_values to its inputs, in the order in which the page makes the widgets.

    A value that does not fit its input raises WorkflowInvalid; `misfit` says whether values are missing or left over.
    """

    def __init__(self, node: Node, layout: Iterable[Input]) -> None:
        self.node = node
        self.by_name = node.values if isinstance(node.values, dict) else None
        self.rest = [] if self.by_name is not None else node.values[::-1]
        self.missing: list[Input] = []
        self.values: dict[str, Any] = {}
        self._read(layout)
        if node.type == "CustomCombo":  # the page adds the widgets of its options by a script
            for name in ["index", *(f"option{number}" for number in range(1, len(self.rest)))]:
                if self.rest:
                    self.values[name] = self.rest.pop()

    def _read(self, layout: Iterable[Input]) -> None:
        for spec in layout:
            if spec.kind == "HELPER":
                self._skip(1)
            elif spec.kind == "IMAGECOMPARE":
                self.values[spec.name] = ["", ""]  # never saved; what the page sends
            elif spec.is_widget:
                self._skip(spec.helpers_before)
                self.values[spec.name] = value = self._take(spec)
                if spec.kind == "COMFY_DYNAMICCOMBO_V3":
                    options = {option["key"]: option["inputs"] for option in spec.options["options"]}
                    if isinstance(value, str) and value in options:
                        self._read(inputs_of_spec(options[value], f"{spec.name}."))
                self._skip(spec.helpers_after)
                if spec.controlled:
                    self._skip(1, lambda value: isinstance(value, bool) or value in CONTROL_MODES)
                    if spec.kind == "COMBO" and not spec.many:
                        self._skip(1, lambda value: isinstance(value, str))

    def _take(self, spec: Input) -> Any:
        if self.by_name is not None:
            value = self.by_name.get(spec.name, ABSENT)
        else:
            value = self.rest.pop() if self.rest else ABSENT
        if value is ABSENT:
            self.missing.append(spec)
            return spec.default()
        if not spec.fits(value):
            raise self._changed(f"the saved value does not fit the widget {shown(spec.name)} ({spec.kind})")
        return value

    def _skip(self, count: int, allowed: Callable[[Any], bool] = lambda value: True) -> None:
        for value in self.rest[: -count - 1 : -1]:  # the next `count`, if there are so many: `rest` is reversed
            if not allowed(value):
                raise self._changed("a saved value is not a setting of a seed's control widget")
            self.rest.pop()

    def _changed(self, what: str) -> WorkflowInvalid:
        return self.node.error(
            f"{what}: the node has changed since the workflow was saved, or draws widgets by a script; open it in the "
            "web page, check its values and save it again, or export it in the API format"
        )

    @property
    def exact(self) -> bool:
        return not self.missing and not self.rest

    def misfit(self) -> WorkflowInvalid | None:
        """Returns why the layout does not match: values are missing for widgets without default, or left over."""
        lacking = [spec.name for spec in self.missing if spec.required and spec.default() is ABSENT]
        if lacking:
            return self._changed(f"the file holds no value for {', '.join(map(shown, lacking[:5]))}")
        if self.node.type not in SHOWS_RESULTS and any(value not in (None, "") for value in self.rest):
            return self._changed(
                f"the file holds {len(self.node.values)} widget values, {len(self.rest)} more than the node has widgets"
            )
        return None


class WidgetReader:
    """Reads widget values of nodes as their graph saves them, before promoted widgets and primitives change them."""

    def __init__(self, node_classes: NodeClasses) -> None:
        self.node_classes = node_classes
        self._inputs: dict[str, list[Input]] = {}
        self._values: dict[Node, dict[str, Any]] = {}

    def inputs_of(self, node: Node) -> list[Input]:
        """Returns the inputs of the node's class."""
        if node.type not in self._inputs:
            if node.type not in self.node_classes:
                raise missing(node.id, node.type, node.title, self.node_classes, node.properties)
            try:
                self._inputs[node.type] = inputs_of_spec(self.node_classes[node.type].INPUT_TYPES())
            except Exception as error:  # third-party code
                raise node.error(f"its INPUT_TYPES cannot be read ({type(error).__name__}): update its pack") from error
        return self._inputs[node.type]

    def values_of(self, node: Node) -> dict[str, Any]:
        """Returns the node's saved values by input name."""
        if node not in self._values:
            self._values[node] = self._read(node)
        return self._values[node]

    def _read(self, node: Node) -> dict[str, Any]:
        accepted: SavedValues | None = None
        faults: list[WorkflowInvalid] = []
        for layout in self._layouts(node):
            try:
                saved = SavedValues(node, layout)
            except WorkflowInvalid as error:
                faults.append(error)
                continue
            if saved.exact:
                return saved.values
            misfit = saved.misfit()
            if misfit is None:
                accepted = accepted or saved
            else:
                faults.append(misfit)
        if accepted is None:
            raise faults[0]
        return {name: value for name, value in accepted.values.items() if value is not ABSENT}

    def _layouts(self, node: Node) -> Iterator[list[Input]]:
        """Yields the orders in which page versions have saved a node's values, the present one first."""
        inputs = self.inputs_of(node)
        required = [spec for spec in inputs if spec.required]
        optional = [spec for spec in inputs if not spec.required]
        uploads = any(
            (spec.type == "COMBO" and any(spec.options.get(key) is True for key in UPLOADS))
            or (spec.name == "audio" and spec.options.get("audio_upload") is True)
            for spec in required
        )
        upload = [_helper("upload")] if uploads else []
        yield inputs + upload
        if upload and optional:
            yield required + upload + optional
        if any(spec.options.get("forceInput") for spec in inputs):  # saved until page version 1.16
            yield [_helper(spec.name) if spec.options.get("forceInput") else spec for spec in inputs] + upload
        custom = {slot.name for slot in node.inputs if slot.widget}
        if any(spec.name in custom and not spec.is_widget for spec in inputs):  # a pack's own kind of widget
            yield [
                replace(spec, kind="CUSTOM") if spec.name in custom and not spec.is_widget else spec for spec in inputs
            ] + upload

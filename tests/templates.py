"""`python tests/templates.py`: writes the templates of ComfyUI's page from workflows/: the same graphs, laid out.

Run it after a change of workflows/, of a node's inputs or of requirements.txt. tests/workflows/test_templates.py
compares both.
"""

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACK = ROOT / "custom_nodes/comfyui_tryon"
TEMPLATES = PACK / "example_workflows"
# What ComfyUI looks for beside the __init__.py that it loads, the repository's or the pack's.
TWICE = ("example_workflows", "locales", "requirements.txt")
# x, y, width, height: no link passes behind a node, in Nodes 2.0 too, whose nodes are taller. All of it is in view, and
# ComfyUI writes no text at a smaller scale than SCALE.
PLACES = {
    "TryOnLoadAutoMasker": (0, 150, 350, 110),
    "TryOnPersonImage": (0, 390, 350, 330),
    "TryOnGarmentImage": (0, 800, 350, 330),
    "TryOnAutoMasker": (430, 0, 260, 210),
    "TryOnMaskImage": (770, 190, 250, 150),
    "TryOnLoadCatVTON": (640, 900, 440, 230),
    "TryOnLoadFashn": (640, 900, 440, 120),
    "TryOnCrop": (1100, 470, 230, 200),
    "TryOnCatVTON": (1410, 670, 280, 440),
    "TryOnFashn": (1410, 670, 280, 460),
    "TryOnPaste": (1770, 380, 230, 150),
    "TryOnOutput": (2080, 300, 310, 430),
}
SCALE = 0.6
# Of the view's top left corner: beside the page's sidebar, which newer pages draw over the view.
OFFSET = [110, 105]
COLOURS = {"TryOnPersonImage": ("#232", "#353"), "TryOnGarmentImage": ("#232", "#353"), "TryOnOutput": ("#323", "#535")}
# The form that a template opens as: (class, widget), in order.
FORM = (
    ("TryOnPersonImage", "image"),
    ("TryOnGarmentImage", "image"),
    ("TryOnAutoMasker", "cloth_type"),
    ("TryOnFashn", "category"),
)
# What the form calls inputs that have the same name.
LABELS = {("TryOnPersonImage", "image"): "Person", ("TryOnGarmentImage", "image"): "Garment"}
UPLOAD = "image"
CONVERTED = {"image_upload": ("upload", "IMAGEUPLOAD", UPLOAD), "control_after_generate": (None, None, "fixed")}


def template(prompt: dict[str, dict], classes: dict[str, type]) -> dict:
    """Returns the page's graph of an API prompt."""
    nodes, links = [], []
    for order, (name, entry) in enumerate(prompt.items()):
        cls, given = classes[entry["class_type"]], entry["inputs"]
        inputs, values = [], []
        for kind in ("required", "optional"):
            for key, (declared, *options) in cls.INPUT_TYPES().get(kind, {}).items():
                shape = {"shape": 7} if kind == "optional" else {}
                link = None
                if isinstance(given.get(key), list):
                    origin, slot = given[key]
                    source = classes[prompt[origin]["class_type"]]
                    link = len(links) + 1
                    links.append([link, int(origin), slot, int(name), len(inputs), source.RETURN_TYPES[slot]])
                if (
                    isinstance(declared, str)
                    and declared.isupper()
                    and declared not in ("INT", "FLOAT", "STRING", "BOOLEAN")
                ):
                    inputs.append({"name": key, **shape, "type": declared, "link": link})
                    continue
                option = options[0] if options else {}
                kind_name = declared if isinstance(declared, str) else "COMBO"
                label = LABELS.get((entry["class_type"], key))
                inputs.append(
                    {"name": key, **shape, "type": kind_name, "widget": {"name": key}, "link": link}
                    | ({"label": label} if label else {})
                )
                default = option.get("default", declared[0] if isinstance(declared, list) else None)
                values.append(given.get(key, default) if link is None else default)
                for mark, (widget, widget_type, value) in CONVERTED.items():
                    if option.get(mark):
                        values.append(value)
                        if widget:
                            slot = {"name": widget, "type": widget_type, "widget": {"name": widget}, "link": None}
                            inputs.append(slot)
        if UPLOAD in values[:-1]:
            # Pages save the button's value before the optional inputs or behind them. None reads it.
            assert values[-2] == UPLOAD
            values[-2] = values[-1]
        x, y, width, height = PLACES[entry["class_type"]]
        names = getattr(cls, "RETURN_NAMES", cls.RETURN_TYPES)
        node = {
            "id": int(name), "type": entry["class_type"], "pos": [x, y], "size": [width, height], "flags": {},
            "order": order, "mode": 0, "inputs": inputs,
            "outputs": [
                {"name": label, "type": output, "links": []}
                for label, output in zip(names, cls.RETURN_TYPES, strict=True)
            ],
            "title": entry["_meta"]["title"], "properties": {"Node name for S&R": entry["class_type"]},
            "widgets_values": values,
        }  # fmt: skip
        if colours := COLOURS.get(entry["class_type"]):
            node["color"], node["bgcolor"] = colours
        nodes.append(node)
    by_id = {node["id"]: node for node in nodes}
    for link, origin, slot, *_ in links:
        by_id[origin]["outputs"][slot]["links"].append(link)
    ids = {entry["class_type"]: int(name) for name, entry in prompt.items()}
    return {
        "revision": 0, "last_node_id": max(by_id), "last_link_id": len(links), "nodes": nodes, "links": links,
        "groups": [], "config": {}, "version": 0.4,
        "extra": {
            "ds": {"scale": SCALE, "offset": OFFSET},
            "linearMode": True,
            "linearData": {
                "inputs": [[ids[name], key] for name, key in FORM if name in ids], "outputs": [ids["TryOnOutput"]]
            },
        },
    }  # fmt: skip


def main() -> None:
    sys.path.insert(0, str(ROOT / "custom_nodes"))
    from comfyui_tryon.engine import install
    from comfyui_tryon.engine.embedded import EmbeddedEngine
    from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS

    install(EmbeddedEngine(NODE_CLASS_MAPPINGS))
    for path in (ROOT / "workflows").glob("*.json"):
        document = template(json.loads(path.read_text()), NODE_CLASS_MAPPINGS)
        (TEMPLATES / path.name).write_text(json.dumps(document, indent=1) + "\n")
    for name in TWICE:
        if (PACK / name).is_dir():
            shutil.rmtree(ROOT / name, ignore_errors=True)
            shutil.copytree(PACK / name, ROOT / name)
        else:
            shutil.copy(PACK / name, ROOT / name)


if __name__ == "__main__":
    main()

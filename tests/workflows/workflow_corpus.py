"""Converts ComfyUI's own template workflows with a ComfyUI's node classes and validates what was accepted.

    python tests/workflow_corpus.py COMFYUI_DIR [--every N] [--json]

The templates are those of the installed `comfyui-workflow-templates` packages. Prints how many convert, how many are
refused and why, and what `execution.validate_prompt` says of the accepted ones: a missing model or input file is
expected on a machine without them, every other finding is listed.
"""

import argparse
import asyncio
import collections
import importlib
import importlib.metadata
import inspect
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

WORKFLOWS = Path(__file__).resolve().parents[2] / "custom_nodes/comfyui_tryon/workflows"
FILE_NAME = re.compile(r"\.(safetensors|sft|ckpt|pth?|bin|gguf|onnx|png|jpe?g|webp|mp4|mov|mp3|wav|flac|glb|obj|fbx)\b")
MISSING_FILE = ("Invalid image file", "Invalid video file", "Invalid audio file", "Invalid file")


def load_node_classes(comfyui: Path) -> tuple[dict[str, type], ModuleType]:
    """NODE_CLASS_MAPPINGS and the `execution` module of a ComfyUI checkout, without its custom nodes."""
    os.chdir(comfyui)
    sys.path.insert(0, str(comfyui))
    sys.argv = ["main.py", "--cpu"]
    importlib.import_module("comfy.options").enable_args_parsing()
    nodes = importlib.import_module("nodes")
    wanted = {"init_custom_nodes": False, "init_api_nodes": True}
    known = inspect.signature(nodes.init_extra_nodes).parameters
    _run(nodes.init_extra_nodes(**{name: value for name, value in wanted.items() if name in known}))
    return nodes.NODE_CLASS_MAPPINGS, importlib.import_module("execution")


def _run(result: Any) -> Any:
    async def wait() -> Any:
        return await result

    return asyncio.run(wait()) if inspect.isawaitable(result) else result


def templates() -> Iterator[tuple[str, dict]]:
    """(file name, document) of every workflow in the installed template packages."""
    found = {}
    for distribution in importlib.metadata.distributions():
        if distribution.name.replace("_", "-").startswith("comfyui-workflow-templates"):
            for file in distribution.files or ():
                if file.suffix == ".json" and file.parent.name == "templates":
                    found[file.name] = file.locate()
    for name, path in sorted(found.items()):
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(document, dict) and isinstance(document.get("nodes"), list):
            yield name, document


def findings(prompt: dict, execution: ModuleType) -> list[str]:
    """What validate_prompt says against a prompt, other than that a model or input file is missing."""
    arguments = {"prompt_id": "corpus", "prompt": prompt, "partial_execution_list": None}
    known = inspect.signature(execution.validate_prompt).parameters
    _, error, _, node_errors = _run(
        execution.validate_prompt(**{name: value for name, value in arguments.items() if name in known})
    )
    found = []
    for node_id, report in (node_errors or {}).items():
        for problem in report["errors"]:
            details = str(problem["details"])
            missing = problem["type"] == "value_not_in_list" and (
                FILE_NAME.search(details) or details.endswith("not in []")
            )
            missing = (
                missing
                or problem["type"] == "custom_validation_failed"
                and any(map(details.__contains__, MISSING_FILE))
            )
            if not missing:
                found.append(f"{problem['type']}: node {node_id} ({report['class_type']}): {details[:120]}")
    if error and not node_errors:
        found.append(error["type"])
    return found


def run(comfyui: Path, every: int = 1) -> dict:
    """{"templates", "accepted", "valid", "refused": {name: reason}, "findings": {name: [finding]}}."""
    # Not as comfyui_tryon.workflows.format: importing the pack itself would hook it into the ComfyUI under test.
    sys.path.insert(0, str(WORKFLOWS))
    workflow_format = importlib.import_module("format")
    sys.path.remove(str(WORKFLOWS))
    documents = list(templates())[::every]
    node_classes, execution = load_node_classes(comfyui)
    refused, found, accepted = {}, {}, 0
    for name, document in documents:
        try:
            prompt = workflow_format.to_prompt(document, node_classes)
        except workflow_format.WorkflowInvalid as error:
            refused[name] = str(error)
            continue
        accepted += 1
        found[name] = findings(prompt, execution)
    found = {name: problems for name, problems in found.items() if problems}
    return {
        "templates": len(documents),
        "accepted": accepted,
        "valid": accepted - len(found),
        "refused": refused,
        "findings": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path, metavar="COMFYUI_DIR")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="convert every Nth template only")
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    result = run(arguments.comfyui.expanduser().resolve(), arguments.every)
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['templates']} templates: {result['accepted']} converted, {len(result['refused'])} refused")
    for reason, count in collections.Counter(
        re.sub(r"^node \S+ ", "", reason)[:100] for reason in result["refused"].values()
    ).most_common():
        print(f"  refused {count}: {reason}")
    print(f"{result['valid']} of the converted are valid, missing model and input files aside")
    for name, problems in result["findings"].items():
        print(f"  {name}: {'; '.join(problems[:3])}")


if __name__ == "__main__":
    main()

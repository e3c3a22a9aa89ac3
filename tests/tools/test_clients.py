"""The clients' packages: what they take from the OpenAPI document, their version and their types."""

import copy
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import tryon_client
from comfyui_tryon.api.openapi import document
from support.servers import ROOT
from tryon_client import _types

CLIENTS = ROOT / "clients"
PYTHON = CLIENTS / "python/src/tryon_client/_types.py"
TYPESCRIPT = CLIENTS / "typescript/src/types.ts"


def loaded(name: str, path: Path) -> types.ModuleType:
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # where dataclasses look annotations up
    try:
        specification.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@pytest.fixture(scope="module")
def generate() -> types.ModuleType:
    return loaded("generate_clients", CLIENTS / "generate.py")


def project_version() -> str:
    return re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]


def small_camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


def declared(interface: str) -> set[str]:
    """The properties of an interface in the TypeScript client."""
    body = re.search(rf"export interface {interface} \{{\n(.*?)^\}}", TYPESCRIPT.read_text(), re.DOTALL | re.MULTILINE)[
        1
    ]
    return set(re.findall(r"^  (\w+)\??:", body, re.MULTILINE))


def unions(path: Path) -> dict[str, list[str]]:
    """The texts of every enumeration that a file of TypeScript exports, by its name."""
    declarations = re.findall(r"^export type (\w+) =(.*?);", path.read_text(), re.DOTALL | re.MULTILINE)
    return {name: re.findall(r'"(.+?)"', union) for name, union in declarations}


def test_generated_files_are_up_to_date(generate):
    outdated = [path.name for path, text in generate.current().items() if path.read_text() != text]
    assert not outdated, "run: python clients/generate.py"


def test_both_clients_have_every_field_and_error_code_of_the_document(generate):
    schemas = document(publishing=False)["components"]["schemas"]
    fields = set(schemas["TryonRequest"]["properties"]) - set(generate.NAMED)
    assert set(_types.Fields.__annotations__) == fields
    assert declared("Fields") == {small_camel(name) for name in fields}
    codes = set(schemas["Error"]["properties"]["code"]["enum"])
    assert set(_types.ErrorCode.__args__) == codes > {"queue_full", "canceled"}
    assert set(unions(TYPESCRIPT)["ErrorCode"]) == codes


def test_the_published_declarations_have_every_value_of_the_typescript_client():
    published = unions(CLIENTS / "typescript/types/types.d.ts")
    assert published == unions(TYPESCRIPT) and published["ClothType"], "run: npm run types"


def test_both_clients_have_every_property_of_every_reply(generate):
    schemas = document(publishing=False)["components"]["schemas"]
    for name in set(schemas) - {"TryonRequest", "TryonForm"}:
        properties = {generate.RENAMED.get(key, key) for key in schemas[name]["properties"]}
        assert set(getattr(_types, name).__dataclass_fields__) == properties, name
        assert declared(name) == {small_camel(key) for key in properties}, name


def test_the_generator_takes_what_is_added_to_the_document(generate, tmp_path):
    added = copy.deepcopy(document(publishing=False))
    schemas = added["components"]["schemas"]
    text = {"type": "string"}
    schemas["TryonRequest"]["properties"] |= {
        "webhook_url": {"anyOf": [text, {"type": "null"}], "default": None},
        "upload_urls": {"anyOf": [text, {"type": "array", "items": text}, {"type": "null"}], "default": None},
        "pose": {"enum": ["sitting", "standing"], "type": "string", "default": "standing", "description": 'Say "up"'},
    }
    schemas["Image"]["properties"]["url"] = {"anyOf": [text, {"type": "null"}], "default": None}
    schemas["Image"]["properties"]["bytes"] = {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}
    either = {"anyOf": [text, {"type": "null"}], "contentEncoding": "base64", "default": None}
    schemas["Image"]["properties"]["image"] = either
    schemas["Image"]["required"] = [key for key in schemas["Image"]["required"] if key != "image"]
    python, typescript, *_ = generate.files(added, "1.2.3").values()
    (tmp_path / "added.py").write_text(python)
    module = loaded("added", tmp_path / "added.py")
    written = {name: reference.__forward_arg__ for name, reference in module.Fields.__annotations__.items()}
    assert written["upload_urls"] == "str | Sequence[str] | None"
    assert written["pose"] == "Pose | None" and module.Pose.__args__ == ("sitting", "standing")
    assert "webhook_url" not in written and module.VERSION == "1.2.3"
    image = module.Image(format="png", width=1, height=1, seed=1)
    assert image.url is None and image.image is None and image.size is None
    assert "  uploadUrls?: string | readonly string[] | null;" in typescript
    assert "  pose?: Pose | null;" in typescript and "  url: string | null;" in typescript
    assert "  image: Uint8Array | null;" in typescript and "  size: number | null;" in typescript


def test_the_clients_have_the_projects_version(generate):
    assert tryon_client.__version__ == project_version()
    package = (CLIENTS / "typescript/package.json").read_text()
    assert f'"version": "{project_version()}"' in package


def test_the_python_client_passes_strict_type_checks():
    options = ["--strict", "--python-version=3.10", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache/client'}"]
    command = [sys.executable, "-m", "mypy", *options, "-p", "tryon_client"]
    done = subprocess.run(command, cwd=CLIENTS / "python/src", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_openapi_python_client_makes_a_client_of_the_document(tmp_path):
    if importlib.util.find_spec("openapi_python_client") is None:
        pytest.skip("openapi-python-client is not installed: its client is not built here")
    (tmp_path / "openapi.json").write_text(json.dumps(document(publishing=False)))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path=openapi.json", "--meta=none"]
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # it calls ruff
    done = subprocess.run(
        [*command, "--fail-on-warning"], cwd=tmp_path, env=os.environ | path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_typescript_clients_declarations_are_up_to_date(tmp_path):
    package = CLIENTS / "typescript"
    command = package / "node_modules/.bin/tsc"
    if not command.exists() or not shutil.which("node"):
        pytest.skip("TypeScript is not installed: run npm install in clients/typescript")
    for arguments in (["--outDir", tmp_path], ["-p", "test"]):
        done = subprocess.run([command, *arguments], cwd=package, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in (package / "types").iterdir()}, "run: npm run types"


def test_openapi_typescript_makes_types_of_the_document(tmp_path):
    command = CLIENTS / "typescript/node_modules/.bin/openapi-typescript"
    if not command.exists() or not shutil.which("node"):
        pytest.skip("openapi-typescript is not installed: run npm install in clients/typescript")
    (tmp_path / "openapi.json").write_text(json.dumps(document(publishing=False)))
    done = subprocess.run([command, "openapi.json", "-o", "types.ts"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "guidance_scale" in (tmp_path / "types.ts").read_text()

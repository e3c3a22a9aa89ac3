#!/usr/bin/env python3
"""Writes what both clients take from the OpenAPI document: fields, enumerations, replies, error codes and the version,
which pyproject.toml states; the pack has it from here too, as it may be installed without that file.

python clients/generate.py            writes the files
python clients/generate.py --check    names the files that differ, and exits with status 1 if there are any
"""

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REQUEST, FORM = "TryonRequest", "TryonForm"
# Arguments with names of their own; all other fields are keyword arguments by their own names.
NAMED = {"person_image": "person", "garment_image": "garment", "mask_image": "mask", "webhook_url": "webhook_url"}
# What the clients call properties whose names say something else there: `bytes` of an image is its file.
RENAMED = {"bytes": "size"}
EXACT_IN_JAVASCRIPT = 2**53 - 1
NOTE = "Generated from the OpenAPI document by clients/generate.py; edit that instead."
WIDTH = 116
PACK = '"""The version. Generated from pyproject.toml by clients/generate.py; edit that instead."""\n\nVERSION = "{}"\n'

Schema = dict[str, Any]


def files(document: Schema, version: str) -> dict[Path, str]:
    """Returns the content of every generated file by its path, from the OpenAPI document and the project's version."""
    package = ROOT / "clients/typescript/package.json"
    settings = json.loads(package.read_text()) | {"version": version}
    return {
        ROOT / "clients/python/src/tryon_client/_types.py": Python(document).text(version),
        ROOT / "clients/typescript/src/types.ts": TypeScript(document).declarations(),
        ROOT / "clients/typescript/src/generated.js": TypeScript(document).values(version),
        package: json.dumps(settings, indent=2) + "\n",
        ROOT / "custom_nodes/comfyui_tryon/version.py": PACK.format(version),
    }


class Language:
    """What both languages need to know of the document."""

    def __init__(self, document: Schema) -> None:
        schemas = document["components"]["schemas"]
        self.request = schemas[REQUEST]["properties"]
        self.fields = {name: field for name, field in self.request.items() if name not in NAMED}
        self.replies = {name: schema for name, schema in schemas.items() if name not in (REQUEST, FORM)}
        self.status = dict(_status(document))
        self.enumerations: dict[str, list[str]] = {}
        for name, field in self.fields.items():
            self._find_enumerations(_camel(name), field)
        for schema_name, schema in self.replies.items():
            for name, field in schema["properties"].items():
                self._find_enumerations(schema_name + _camel(name), field)

    def _find_enumerations(self, name: str, field: Schema) -> None:
        for part in _parts(field):
            if "enum" in part:
                self.enumerations[name] = part["enum"]

    def named(self, part: Schema, name: str) -> str | None:
        """Returns the name of the type of `part` if it has one: that of another schema, or of an enumeration."""
        if "$ref" in part:
            return part["$ref"].rpartition("/")[2]
        return name if part.get("enum") and part["enum"] == self.enumerations.get(name) else None


class Python(Language):
    def text(self, version: str) -> str:
        lines = [f'"""{NOTE}"""', "", "from __future__ import annotations", ""]
        lines += ["from collections.abc import Sequence", "from dataclasses import dataclass, field"]
        lines += ["from typing import Any, Literal, TypedDict", "", f'VERSION = "{version}"', ""]
        for name, values in self.enumerations.items():
            lines += [f"{name} = Literal[", *(f'    "{value}",' for value in values), "]"]
        lines += ["", "# The HTTP status of each error code.", "STATUS: dict[str, int] = {"]
        lines += [*(f'    "{code}": {status},' for code, status in self.status.items()), "}", ""]
        lines += ["", "class Fields(TypedDict, total=False):"]
        lines += self._documentation("The optional fields of a request. None leaves a field out.")
        for name, schema in self.fields.items():
            lines += ["", f"    {name}: {self._type(schema, _camel(name), 'Sequence', optional=True)}"]
            lines += self._documentation(_described(schema))
        for name, schema in self.replies.items():
            lines += ["", "", "@dataclass(frozen=True, kw_only=True)", f"class {name}:"]
            lines += self._documentation(schema.get("description", f"`{name}` of the API."))
            for key, field in schema["properties"].items():
                type_ = self._type(field, name + _camel(key), "list")
                default = self._default(key, field, key in schema.get("required", ()), type_)
                lines += ["", f"    {RENAMED.get(key, key)}: {type_}{default}"]
                lines += self._documentation(field.get("description"))
        return "\n".join(lines) + "\n"

    def _type(self, schema: Schema, name: str, array: str, optional: bool = False) -> str:
        types = [self._one_type(part, schema, name, array) for part in schema.get("anyOf", [schema])]
        types += ["None"] if optional else []
        return " | ".join(sorted(dict.fromkeys(types), key=lambda text: text == "None"))

    def _one_type(self, part: Schema, schema: Schema, name: str, array: str) -> str:
        if found := self.named(part, name):
            return found
        if "const" in part:
            return f'Literal["{part["const"]}"]'
        if "prefixItems" in part:
            return f"tuple[{', '.join(self._type(item, name, array) for item in part['prefixItems'])}]"
        match part.get("type"):
            case "array":
                return f"{array}[{self._type(part['items'], name, array)}]"
            case "object":
                values = part.get("additionalProperties")
                return f"dict[str, {self._type(values, name, array) if isinstance(values, dict) else 'Any'}]"
            case "string":
                return "bytes" if _is_base64(part, schema) else "str"
            case known:
                simple = {"integer": "int", "number": "float", "boolean": "bool", "null": "None", None: "Any"}
                return simple[known]

    @staticmethod
    def _default(key: str, schema: Schema, required: bool, type_: str) -> str:
        """Returns what follows the type in a dataclass: the default, and what else `field` needs to say."""
        value = schema.get("default")
        options = []
        if not required and isinstance(value, list | dict):
            options.append(f"default_factory={type(value).__name__}")
        elif not required:
            options.append("default=" + (json.dumps(value) if isinstance(value, str) else repr(value)))
        if "bytes" in type_:
            options.append("repr=False")
        if key in RENAMED:
            options.append(f'metadata={{"key": "{key}"}}')
        if len(options) == 1 and options[0].startswith("default="):
            return " = " + options[0].removeprefix("default=")
        return f" = field({', '.join(options)})" if options else ""

    @staticmethod
    def _documentation(text: str | None) -> list[str]:
        if not text:
            return []
        text = text.replace("\\", "\\\\")
        lines = textwrap.wrap(text[:-1] + '\\"' if text.endswith('"') else text, WIDTH - 8)
        if len(lines) == 1:
            return [f'    """{lines[0]}"""']
        return [f'    """{lines[0]}', *(f"    {line}" for line in lines[1:]), '    """']


class TypeScript(Language):
    def declarations(self) -> str:
        lines = [f"// {NOTE}", ""]
        for name, values in self.enumerations.items():
            lines += [f"export type {name} =", *(f'  | "{value}"' for value in values)]
            lines[-1] += ";"
        lines += ["", "/** The optional fields of a request. Null and undefined leave a field out. */"]
        lines += ["export interface Fields {"]
        for name, schema in self.fields.items():
            lines += self._documentation(_described(schema))
            lines += [f"  {_small_camel(name)}?: {self._type(schema, _camel(name), 'readonly ')} | null;"]
        lines += ["}"]
        for name, schema in self.replies.items():
            lines += ["", *([f"/** {schema['description']} */"] if "description" in schema else [])]
            lines += [f"export interface {name} {{"]
            for key, field in schema["properties"].items():
                lines += self._documentation(field.get("description"))
                lines += [f"  {_property(key)}: {self._type(field, name + _camel(key))};"]
            lines += ["}"]
        return "\n".join(lines).replace(" | null | null;", " | null;") + "\n"

    def values(self, version: str) -> str:
        """Returns the module of what the client looks up while it runs."""
        conversions: dict[str, dict[str, str]] = {}
        defaults: dict[str, dict[str, Any]] = {}
        for name, schema in self.replies.items():
            conversions[name] = {}
            defaults[name] = {}
            for key, field in schema["properties"].items():
                parts = list(_parts(field))
                if any(_is_base64(part, field) for part in parts):
                    conversions[name][key] = "bytes"
                if refs := [part["$ref"] for part in parts if "$ref" in part]:
                    conversions[name][key] = refs[0].rpartition("/")[2]
                if key not in schema.get("required", ()):
                    defaults[name][_property(key)] = field.get("default")
        lines = [f"// {NOTE}", "", f'export const VERSION = "{version}";']
        for comment, name, type_, value in (
            ("The HTTP status of each error code.", "STATUS", "Record<string, number>", self.status),
            (
                "What the values of a schema's properties are, other than plain JSON.",
                "CONVERSIONS",
                "Record<string, Record<string, string>>",
                conversions,
            ),
            (
                "What properties are called that have other names in the API.",
                "RENAMED",
                "Record<string, string>",
                RENAMED,
            ),
            ("What absent properties stand for.", "DEFAULTS", "Record<string, Record<string, unknown>>", defaults),
        ):
            lines += ["", f"/** {comment}", f" * @type {{{type_}}} */"]
            lines += [f"export const {name} = {json.dumps(value, indent=2)};"]
        return "\n".join(lines) + "\n"

    def _type(self, schema: Schema, name: str, readonly: str = "") -> str:
        types = [self._one_type(part, schema, name, readonly) for part in schema.get("anyOf", [schema])]
        return " | ".join(sorted(dict.fromkeys(types), key=lambda text: text == "null"))

    def _one_type(self, part: Schema, schema: Schema, name: str, readonly: str) -> str:
        if found := self.named(part, name):
            return found
        if "const" in part:
            return json.dumps(part["const"])
        if "prefixItems" in part:
            return f"[{', '.join(self._type(item, name) for item in part['prefixItems'])}]"
        match part.get("type"):
            case "array":
                item = self._type(part["items"], name)
                return f"{readonly}{f'({item})' if '|' in item else item}[]"
            case "object":
                values = part.get("additionalProperties")
                return f"Record<string, {self._type(values, name) if isinstance(values, dict) else 'unknown'}>"
            case "integer":
                return "number | bigint" if part.get("maximum", 0) > EXACT_IN_JAVASCRIPT else "number"
            case "string":
                return "Uint8Array" if _is_base64(part, schema) else "string"
            case known:
                return {"number": "number", "boolean": "boolean", "null": "null", None: "unknown"}[known]

    @staticmethod
    def _documentation(text: str | None) -> list[str]:
        if not text:
            return []
        lines = textwrap.wrap(text.replace("*/", "*\\/"), WIDTH - 8)
        if len(lines) == 1:
            return [f"  /** {lines[0]} */"]
        return ["  /**", *(f"   * {line}" for line in lines), "   */"]


def _parts(schema: Schema) -> Iterator[Schema]:
    """Yields a property's schema, its alternatives and their items."""
    yield schema
    for part in schema.get("anyOf", ()):
        yield from _parts(part)
    if isinstance(schema.get("items"), dict):
        yield from _parts(schema["items"])


def _is_base64(part: Schema, schema: Schema) -> bool:
    encoding = part.get("contentEncoding", schema.get("contentEncoding"))
    return part.get("type") == "string" and encoding == "base64"


def _described(schema: Schema) -> str | None:
    """Returns the description of a request's field, with its range and its default."""
    sentences = [schema["description"]] if "description" in schema else []
    for part in _parts(schema):
        if "minimum" in part and "maximum" in part:
            step = f", in steps of {part['multipleOf']}" if "multipleOf" in part else ""
            sentences.append(f"From {part['minimum']} to {part['maximum']}{step}.")
    if schema.get("default") is not None:
        sentences.append(f"Default: {json.dumps(schema['default'])}.")
    return " ".join(sentences) or None


def _status(document: Schema) -> Iterator[tuple[str, int]]:
    codes = {
        code: int(status)
        for path in document["paths"].values()
        for operation in path.values()
        if isinstance(operation, dict)
        for status, reply in operation.get("responses", {}).items()
        for code in reply.get("x-codes", ())
    }
    for code in document["components"]["schemas"]["Error"]["properties"]["code"]["enum"]:
        if code in codes:  # a client that only uses the document's operations never meets the others
            yield code, codes[code]


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _small_camel(name: str) -> str:
    camel = _camel(name)
    return camel[:1].lower() + camel[1:]


def _property(key: str) -> str:
    """Returns the name in TypeScript of a reply's property."""
    return RENAMED.get(key, _small_camel(key))


def current() -> dict[Path, str]:
    """Returns the generated files that fit this checkout."""
    sys.path.insert(0, str(ROOT / "custom_nodes"))
    from comfyui_tryon.api.openapi import document

    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found, "pyproject.toml states no version"
    return files(document(publishing=False), found[1])


def main() -> int:
    contents = current()
    differing = [path for path, text in contents.items() if not path.exists() or path.read_text() != text]
    for path in differing:
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(contents[path])
    return 1 if differing and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())

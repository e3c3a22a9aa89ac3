"""Requests that must be refused as the client's fault, one of each kind."""

import base64
import gzip
import io
import json
import struct
import zlib
from dataclasses import dataclass, field

from PIL import Image

from .images import to_base64, to_bytes

GREY = to_base64(Image.new("RGB", (64, 64), "grey"))
BOUNDARY = "limit"


@dataclass(frozen=True)
class Invalid:
    """A body of POST /api/v1/tryon, and the status and code that refuse it."""

    body: bytes
    status: int
    code: str
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """Returns a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """Returns a grey PNG whose header promises this size, whatever its rows hold."""
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")


def invalid_requests(workflow: str) -> dict[str, Invalid]:
    """Returns a request for each kind of fault, by name; apart from the fault `workflow` takes them."""

    def fields(**changes: object) -> bytes:
        good = {"person_image": GREY, "garment_image": GREY, "workflow": workflow}
        return json.dumps({name: value for name, value in (good | changes).items() if value is not None}).encode()

    def image(data: bytes) -> bytes:
        return fields(person_image=base64.b64encode(data).decode())

    def form(*parts: tuple[str, bytes], end: str = f"--{BOUNDARY}--\r\n") -> bytes:
        heads = (f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() for name, _ in parts)
        return b"".join(head + data + b"\r\n" for head, (_, data) in zip(heads, parts)) + end.encode()

    grey = Image.new("RGB", (64, 64), "grey")
    many = io.BytesIO()
    Image.new("P", (64, 64)).save(many, "GIF")
    gif = many.getvalue()
    as_form = f"multipart/form-data; boundary={BOUNDARY}"
    parameter, picture, request = (422, "invalid_parameter"), (422, "invalid_image"), (400, "invalid_request")
    return {
        "no body": Invalid(b"", *request),
        "no JSON": Invalid(b"{person", *request),
        "no UTF-8": Invalid(b'{"person_image":"\xff"}', *request),
        "half a character": Invalid(b'{"\\ud800": 1}', *request),
        "a list": Invalid(b"[1]", *request),
        "depth": Invalid(b"[" * 100_000, *request),
        "many values": Invalid(b"[" + b"0," * 100_000 + b"0]", *request),
        "a type nobody takes": Invalid(fields(), 415, "unsupported_media_type", "text/plain"),
        "compressed": Invalid(
            gzip.compress(fields()), 415, "unsupported_media_type", headers={"Content-Encoding": "gzip"}
        ),
        "an unknown field": Invalid(fields(colour="red"), *parameter),
        "no person": Invalid(fields(person_image=None), 422, "missing_field"),
        "no garment": Invalid(fields(garment_image=None), 422, "missing_field"),
        "a number for an image": Invalid(fields(person_image=7), *picture),
        "no base64": Invalid(fields(person_image="@@@@"), *picture),
        "an empty image": Invalid(fields(person_image=""), *picture),
        "text": Invalid(image(b"I am an image"), *picture),
        "a truncated image": Invalid(image(to_bytes(grey)[:60]), *picture),
        "an SVG": Invalid(image(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), *picture),
        "a tiny image": Invalid(image(to_bytes(grey.resize((4, 4)))), *picture),
        "a huge image": Invalid(image(png_of(60_000, 60_000)), 422, "image_too_large"),
        "a long image": Invalid(image(png_of(20_000, 16)), 422, "image_too_large"),
        "an image without rows": Invalid(image(png_of(64, 64)), *picture),
        "chunks": Invalid(image(png_of(64, 64, extra=chunk(b"tEXt", b"a\0b") * 60_000)), *picture),
        "comments": Invalid(
            image(gif[: gif.index(b"\x2c\0\0", 13)] + b"\x21\xfe\1A\0" * 300_000 + gif[-40:]), *picture
        ),
        "steps": Invalid(fields(num_inference_steps=0), *parameter),
        "a seed too large": Invalid(fields(seed=2**65), *parameter),
        "no number": Invalid(fields(guidance_scale="NaN"), *parameter),
        "an odd width": Invalid(fields(width=65), *parameter),
        "a type of garment": Invalid(fields(cloth_type="hat"), *parameter),
        "a format": Invalid(fields(output_format="tiff"), *parameter),
        "no such workflow": Invalid(fields(workflow="nobody-has-this"), 404, "workflow_not_found"),
        "a path for a workflow": Invalid(fields(workflow="../../etc/passwd"), *parameter),
        "a form without a boundary": Invalid(form(("seed", b"1")), *request, "multipart/form-data"),
        "a form that does not end": Invalid(form(("seed", b"1"), end=""), *request, as_form),
        "a field twice": Invalid(form(("seed", b"1"), ("seed", b"2")), *request, as_form),
        "a long value": Invalid(form(("seed", b"1" * 10_000)), *parameter, as_form),
        "a part without a name": Invalid(f"--{BOUNDARY}\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode(), *request, as_form),
    }

"""Gives schemathesis real images, which no schema can describe:

SCHEMATHESIS_HOOKS=schemathesis_hooks PYTHONPATH=tests schemathesis run http://127.0.0.1:8000/api/v1/openapi.json
"""

import base64
import io

import schemathesis
from hypothesis import strategies
from PIL import Image


def _picture(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (colour, 128, 255 - colour)).save(buffer, "PNG")
    return buffer.getvalue()


pictures = strategies.integers(0, 255).map(_picture)
schemathesis.openapi.format("binary", pictures)
schemathesis.openapi.format("byte", pictures.map(lambda data: base64.b64encode(data).decode()))

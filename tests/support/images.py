"""Images as the tests send, receive and compare them."""

import base64
import io
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from comfyui_tryon import images
from comfyui_tryon.errors import ApiError
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from drawing import Pair


def to_bytes(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def to_base64(image: Image.Image) -> str:
    return base64.b64encode(to_bytes(image)).decode()


def small_request(pair: "Pair") -> dict:
    """The fields of a request that takes the demo's model a tenth of a second."""
    return {
        "person_image": to_base64(pair.person),
        "garment_image": to_base64(pair.garment),
        "num_inference_steps": 2,
        "width": 64,
        "height": 96,
        "seed": 7,
    }


def from_base64(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))


def gamma_profile(gamma: float) -> bytes:
    """An RGB profile with sRGB's primaries and another gamma, made by changing the curves of Pillow's own."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    curve = b"para" + bytes(4) + struct.pack(">HHi", 0, 0, round(gamma * 65536))
    for index in range(struct.unpack_from(">I", data, 128)[0]):
        tag, offset, size = struct.unpack_from(">4sII", data, 132 + 12 * index)
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + size] = curve + bytes(size - len(curve))
            struct.pack_into(">I", data, 132 + 12 * index + 8, len(curve))
    data[84:100] = bytes(16)  # the checksum
    return bytes(data)


def picture(reply, index: int = 0) -> np.ndarray:
    """The pixels of an image of a JSON reply."""
    assert reply.status_code == 200, reply.text
    return from_base64(reply.json()["output"]["images"][index]["image"])


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    difference = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return 10 * np.log10(255**2 / max(difference, 1e-10))


def decode(data: bytes) -> np.ndarray:
    """What the server makes of an image file."""
    return images.decode(data, "person_image", 10**6)


def refusal(data: bytes) -> str:
    """The message with which the server refuses an image file."""
    with pytest.raises(ApiError) as caught:
        decode(data)
    assert caught.value.code == "invalid_image"
    return caught.value.message


def gradient(width: int = 96, height: int = 128) -> Image.Image:
    """Differs in every corner and is smooth enough for lossy formats."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * columns / width, 255 * rows / height, 128 + 60 * rows / height], -1)
    return Image.fromarray(pixels.astype(np.uint8))

"""The multipart form of a request: images as files, a third smaller than in base64 and read while they are sent."""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, runtime_checkable


@runtime_checkable
class Savable(Protocol):
    """An image of Pillow, or whatever saves itself as it does."""

    def save(self, fp: IO[bytes], format: str) -> object: ...


class Upload(Protocol):
    """A file that a web framework received, such as the UploadFile of Starlette and FastAPI."""

    @property
    def file(self) -> IO[bytes]: ...


ImageSource: TypeAlias = "bytes | str | os.PathLike[str] | IO[bytes] | Upload | Savable"
"""An image: the bytes of its file, a path, a URL or data URI, an open or uploaded file, or an image of Pillow."""

Part: TypeAlias = "tuple[str, tuple[str | None, Any]]"
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
WITH_ALPHA = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}
TEXTS = ("https://", "http://", "data:")


class Form:
    """The parts of a request, which can be sent several times.

    Args:
        images: by the API's field names; several where there is a sequence, none where there is None.
        fields: the API's other fields; None leaves one out.
    """

    def __init__(
        self, images: Mapping[str, ImageSource | Sequence[ImageSource] | None], fields: Mapping[str, Any]
    ) -> None:
        self._images = [(name, _content(source)) for name, given in images.items() for source in _listed(given)]
        self._texts = [(name, _text(value)) for name, given in fields.items() for value in _listed(given)]

    @contextmanager
    def opened(self) -> Iterator[list[Part]]:
        """Gives httpx's `files`; paths are open files meanwhile.

        Raises:
            OSError: a file cannot be opened.
        """
        with ExitStack() as files:
            parts: list[Part] = [(name, (None, text)) for name, text in self._texts]
            for name, source in self._images:
                if isinstance(source, str):
                    parts.append((name, (None, source)))
                elif isinstance(source, bytes):
                    parts.append((name, (name, source)))
                else:
                    parts.append((name, (name, files.enter_context(open(source, "rb")))))
            yield parts


def _listed(given: Any) -> Sequence[Any]:
    if given is None:
        return []
    return given if isinstance(given, list | tuple) else [given]


def _content(source: ImageSource) -> bytes | str | os.PathLike[str]:
    """Returns bytes, text for the server to read, or the path of a regular file."""
    if isinstance(source, str):
        if source[:8].lower().startswith(TEXTS):
            return source
        source = Path(source)
    if isinstance(source, os.PathLike):  # a pipe has no size, and can be read only once
        return source if os.path.isfile(source) else Path(source).read_bytes()
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if hasattr(source, "read"):  # before Savable: files that a web framework received can save themselves, too
        content = _opened(source).read()
        if isinstance(content, bytes):
            return content
        raise TypeError("An image's file must be open in binary mode.")
    if isinstance(source, Savable):
        return _saved(source)
    raise TypeError(f"An image is bytes, a path, a URL, an open file or a Pillow image, not {type(source).__name__}.")


def _opened(source: Any) -> Any:
    """Returns the file that an asynchronous upload holds, or else `source`."""
    if not inspect.iscoroutinefunction(source.read):
        return source
    if not hasattr(source, "file"):
        raise TypeError("An asynchronous file must be read first: pass what `await file.read()` returns.")
    return source.file


def _saved(image: Any) -> bytes:
    """Returns a Pillow image as the PNG of what a viewer shows of it: turned upright, in a mode that PNG has."""
    if hasattr(image, "getexif"):
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image)
        if image.mode not in PNG_MODES:
            image = _in_png_mode(image)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _in_png_mode(image: Any) -> Any:
    """Converts a Pillow image to a mode that PNG has, by its own profile if that is one of CMYK."""
    from PIL import ImageCms

    if image.mode.startswith("I"):
        return image.convert("I").convert("I;16")  # at once, Pillow would cut off what is beyond 8 bits
    profile = image.info.get("icc_profile") or b""
    if image.mode == "CMYK" and profile:
        with suppress(ImageCms.PyCMSError):  # a profile that is damaged
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
    image = image.convert(WITH_ALPHA.get(image.mode, "RGB"))
    if image.mode == "RGB" and profile[16:20] != b"RGB ":
        image.info.pop("icc_profile", None)
    return image


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

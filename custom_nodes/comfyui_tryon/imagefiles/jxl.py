"""Reads JPEG XL by a decoder that is a package of its own, and that is asked for pixels only."""

import functools
import importlib.machinery
import importlib.util
import io
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from . import jxlheader, profiles

# Loaded by the first image, and not by its package, which registers it with Pillow for all users in the process.
DECODER_MODULE = "pillow_jxl.pillow_jxl"
PART = 1 << 18  # numbers that are converted at a time


def _find() -> importlib.machinery.ModuleSpec | None:
    package = importlib.util.find_spec("pillow_jxl")
    places = package.submodule_search_locations if package else None
    return importlib.machinery.PathFinder.find_spec(DECODER_MODULE, places) if places else None


HAS_JXL = _find() is not None


class JxlImage(ImageFile.ImageFile):
    """An image whose header is read when it is opened, and whose pixels are when they are loaded.

    Its decoder turns it. Its mode is L, LA, I;16, RGB or RGBA.
    """

    format = "JXL"

    def _open(self) -> None:
        assert self.fp is not None
        self._stream = jxlheader.codestream(self.fp.read())
        if not self._stream:
            raise SyntaxError("no JPEG XL")
        try:
            self._header = jxlheader.read(self._stream)
        except jxlheader.UnreadableForm as error:
            raise SyntaxError(str(error)) from None
        self._size = self._header.width, self._header.height
        self._mode = self._header.mode

    def load(self) -> Any:
        """Decodes the pixels.

        Raises:
            OSError: the file is damaged or truncated.
        """
        if self._stream:
            stream, self._stream = self._stream, b""
            image, profile = _decode(stream, self._header)
            self._size, self._mode, self.im = image.size, image.mode, image.im
            if profile:
                self.info["icc_profile"] = profile
        return super().load()


def open_jxl(data: bytes) -> Image.Image:
    """Opens a JPEG XL image.

    Raises:
        UnidentifiedImageError: `data` is none, or one in a form that cannot be read.
        OSError: its header is damaged or truncated.
    """
    try:
        return JxlImage(io.BytesIO(data))
    except SyntaxError:
        raise UnidentifiedImageError from None


@functools.cache
def _decoder() -> Any:
    spec = _find()
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Decoder(num_threads=0)


def _decode(stream: bytes, header: jxlheader.CodestreamHeader) -> tuple[Image.Image, bytes | None]:
    """Returns the image, upright, and the ICC profile of its colours, if they are not sRGB's."""
    try:
        _, info, data, profile, _ = _decoder()(stream)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the decoder is no Exception
        raise OSError(str(error)) from None
    size = info.width, info.height
    if size != (header.width, header.height):
        raise OSError("the size is not that of the header")
    if header.codes:
        profile = profiles.of_codes(*header.codes)
    return _image(data, size, header), None if header.srgb or header.linear else profile or None


def _image(data: bytes, size: tuple[int, int], header: jxlheader.CodestreamHeader) -> Image.Image:
    mode = header.mode
    if header.grey:  # which the decoder returns as wide as it is
        sample = len(data) // (size[0] * size[1] * len(mode))
        if sample == 2 and not header.alpha and not header.linear:
            mode = "I;16"
        elif sample > 1 or header.linear:
            data = _levels(data, sample, header).tobytes()
    if header.premultiplied:
        mode = mode[:-1] + "a"
    image = Image.frombytes(mode, size, data)
    return image.convert(mode[:-1] + "A") if header.premultiplied else image


def _levels(data: bytes, sample: int, header: jxlheader.CodestreamHeader) -> np.ndarray:
    """Returns grey, and its alpha, of `sample` bytes each as uint8 of sRGB."""
    kind, top = {1: (np.uint8, 255), 2: (np.uint16, 65535), 4: (np.float32, 1)}[sample]
    numbers = np.frombuffer(data, kind)
    result = np.empty(numbers.shape, np.uint8)
    for start in range(0, len(numbers), PART):
        part = np.nan_to_num(numbers[start : start + PART].astype(np.float32) / top).clip(0, 1)
        if header.linear:
            light = part[:: 2 if header.alpha else 1]
            light[:] = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        result[start : start + PART] = (part * 255).round()
    return result

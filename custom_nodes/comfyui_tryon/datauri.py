"""Reads the bytes of an image from text: base64, or a data URI as RFC 2397 and form libraries write them."""

import binascii
import re
from string import hexdigits

import numpy as np
import pybase64

from .imagefiles import recognition

URL_SAFE = bytes.maketrans(b"-_", b"+/")
WHITE_SPACE = b" \t\r\n\f\v"
# Bounds the search for the end of a data URI's head, which may hold a file name.
HEAD_CHARACTERS = 8192
DATA = re.compile(r"\s*data:", re.IGNORECASE)
# The value of each character as a hexadecimal digit, 255 if it is none.
HEX_DIGITS = bytes(int(chr(code), 16) if chr(code) in hexdigits else 255 for code in range(256))
PERCENT = np.uint8(ord("%"))
MARK = re.compile(r";\s*base64\s*,", re.IGNORECASE)


class NoImageText(ValueError):
    """The text is neither base64 nor a data URI; the message continues a sentence that begins with its name."""


def decode_text(text: str) -> bytes:
    """Returns the bytes that `text` holds in base64 or as a data URI.

    Standard and URL-safe base64 are read, with white space, percent-encoding and missing padding.

    Raises:
        NoImageText
    """
    head = text[:HEAD_CHARACTERS]
    payload, is_base64 = text, True
    if start := DATA.match(head):
        mark = MARK.search(head, start.end())
        is_base64 = mark is not None
        end = mark.end() if mark else head.find(",", start.end()) + 1
        if not end:
            raise NoImageText("is a data URI without a comma; send data:image/png;base64, and the base64 behind it")
        payload = text[end:]
    try:
        return pybase64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        pass  # most clients send plain base64, which is decoded without a copy; the others cost one more try
    data = _unquoted(payload.encode())
    try:
        return _lenient(data)
    except (binascii.Error, ValueError):
        if not is_base64:
            return data
        raise NoImageText(recognition.named_text(payload)) from None


def _unquoted(data: bytes) -> bytes:
    """Returns `data` without percent-encoding, as `urllib.parse.unquote_to_bytes` does.

    That makes an object for each escape, which millions of them would hold up the event loop with.
    """
    if b"%" not in data:
        return data
    signs = np.frombuffer(data, np.uint8)
    digits = np.frombuffer(data.translate(HEX_DIGITS), np.uint8)
    high, low = digits[1:-1], digits[2:]
    escape = (signs[:-2] == PERCENT) & (high < 16) & (low < 16)
    unquoted, kept = signs.copy(), np.ones(len(signs), bool)
    unquoted[:-2] += (high * 16 + low - PERCENT) * escape  # modulo 256
    kept[1:-1] &= ~escape
    kept[2:] &= ~escape
    return np.compress(kept, unquoted).tobytes()


def _lenient(data: bytes) -> bytes:
    data = data.strip(WHITE_SPACE)
    if b" " in data and not any(sign in data for sign in (b"+", b"-", b"_")) and (len(data) % 4 == 0):
        # Decoding as a URL-encoded form made spaces of the plus signs; taking these out would give another image.
        data = data.replace(b" ", b"+")
    data = data.translate(URL_SAFE, WHITE_SPACE).rstrip(b"=")
    return pybase64.b64decode(data + b"=" * (-len(data) % 4), validate=True)

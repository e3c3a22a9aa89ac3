"""Names what a file is that is no image this pack reads, and says what to send instead."""

import re

from . import boxes, tiff

AS_JPEG = "Save it as JPEG or PNG, and send that."
JPEG_XL = "JPEG XL in a form that cannot be read (such as an animation, CMYK or linear light), or damaged"
TIFF = "TIFF in a form that cannot be read (such as a camera's raw file or rare kinds of numbers), or damaged"
BYTES = "Send the bytes of an image file."
# What files begin with, what they are called and what to do.
BEGINNINGS: list[tuple[bytes, str, str]] = [
    (b"%PDF", "a PDF document", "Export the page as JPEG or PNG, and send that."),
    (b"%!PS", "a PostScript document", AS_JPEG),
    (b"\xc5\xd0\xd3\xc6", "an EPS document", AS_JPEG),
    (b"8BPS", "a Photoshop document (PSD)", AS_JPEG),
    (b"gimp xcf", "a GIMP document (XCF)", AS_JPEG),
    (b"\0\0\0\x0cjP  ", "JPEG 2000", AS_JPEG),
    (b"\xff\x4f\xff\x51", "JPEG 2000", AS_JPEG),
    (b"\xff\x0a", JPEG_XL, AS_JPEG),
    (b"\0\0\0\x0cJXL ", JPEG_XL, AS_JPEG),
    (b"II\xbc", "JPEG XR", AS_JPEG),
    *((beginning, TIFF, AS_JPEG) for beginning in tiff.BEGINNINGS),
    (b"\0\0\1\0", "a Windows icon (ICO)", AS_JPEG),
    (b"\0\0\2\0", "a Windows cursor (CUR)", AS_JPEG),
    (b"icns", "an Apple icon (ICNS)", AS_JPEG),
    (b"qoif", "a QOI image", AS_JPEG),
    (b"DDS ", "a DDS texture", AS_JPEG),
    (b"v/1\x01", "an OpenEXR image", AS_JPEG),
    (b"#?RADIANCE", "a Radiance HDR image", AS_JPEG),
    (b"FUJIFILMCCD-RAW", "a camera's raw file", AS_JPEG),
    (b"IIRO", "a camera's raw file", AS_JPEG),
    (b"IIU\0", "a camera's raw file", AS_JPEG),
    (b"FOVb", "a camera's raw file", AS_JPEG),
    (b"\0MRM", "a camera's raw file", AS_JPEG),
    (b"PK\3\4", "a ZIP archive or an office document", BYTES),
    (b"Rar!", "a RAR archive", BYTES),
    (b"7z\xbc\xaf", "a 7z archive", BYTES),
    (b"\x1f\x8b", "compressed with gzip", "Send the image file itself."),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", "Send the image file itself."),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video", "Send one image of it as JPEG or PNG."),
    (b"FLV\1", "a Flash video", "Send one image of it as JPEG or PNG."),
    (b"\0\0\1\xba", "an MPEG video", "Send one image of it as JPEG or PNG."),
    (b"\x93NUMPY", "an array of NumPy", AS_JPEG),
    (b"\x89HDF", "an HDF5 file", AS_JPEG),
    (b"bplist00", "an Apple property list", BYTES),
]
# What texts look like, in small letters.
TEXTS: list[tuple[re.Pattern[bytes], str, str]] = [
    (
        re.compile(rb"https?://"),
        "a URL",
        "Send the image's bytes, or the URL as text where the operator allows its host.",
    ),
    (re.compile(rb"blob:"), "a URL of a web page", "Read the blob's bytes, and send those."),
    (re.compile(rb"data:"), "a data URI inside the image's bytes", "Decode it once, or send it as text in JSON."),
    (re.compile(rb"file:|[a-z]:[\\/]|\\\\"), "a path", BYTES),
    (re.compile(rb"[{\[]"), "JSON", BYTES),
    (re.compile(rb"([a-z][a-z0-9+.-]*:)?//[\w.-]+/"), "a URL of a kind that is not fetched", BYTES),
    (re.compile(rb"[^\r\n<>\"]+\.(jpe?g|png|webp|avif|hei[cf]|gif|bmp|tiff?)\s*$"), "a file's name", BYTES),
]
BASE64 = re.compile(rb"[A-Za-z0-9+/_\-\r\n]{24,}={0,2}\s*")
# What base64 of the formats begins with.
ENCODED = (b"iVBORw0K", b"/9j/", b"UklGR", b"R0lGOD", b"AAAA", b"Qk", b"SUkq", b"TU0A")
RAW_BRANDS = {b"crx ": "a camera's raw file (CR3)"}


def named(data: bytes) -> str:
    """Returns what `data` is and what to send instead, to follow "person_image "; empty if that is not known."""
    if not data.strip():
        return f"is empty. {BYTES}"
    if brands := boxes.brands(data):
        return _film(brands)
    if data[:4] == b"RIFF" and data[8:12] != b"WEBP":
        kind = "an AVI video" if data[8:12] == b"AVI " else "a sound file"
        return f"is {kind}. Send one image of it as JPEG or PNG."
    for beginning, what, advice in BEGINNINGS:
        if data.startswith(beginning):
            return f"is {what}. {advice}"
    if data[4:8] in (b"moov", b"mdat", b"wide", b"free"):
        return "is a video. Send one image of it as JPEG or PNG."
    if data[12:16] == b"CgBI":
        return f"is a PNG in the form that Xcode makes for apps. {AS_JPEG}"
    return _text(data)


def named_text(text: str) -> str:
    """Returns what `text` is, which is no base64, and what to send instead, to follow "person_image "."""
    found = _text(text[:4096].encode("utf-8", "replace"))
    usual = "is not base64. Send the image's bytes in base64 or as a data URI."
    return usual if not found or found.startswith("is text") else found


def _film(brands: set[bytes]) -> str:
    for brand, what in RAW_BRANDS.items():
        if brand in brands:
            return f"is {what}. {AS_JPEG}"
    if brands & boxes.AVIF_BRANDS:
        return f"is AVIF in a form that cannot be read. {AS_JPEG}"
    if brands & boxes.HEIF_BRANDS:
        return f"is HEIC in a form that cannot be read, or damaged. {AS_JPEG}"
    return "is a video (MP4 or QuickTime). Send one image of it as JPEG or PNG."


def _text(data: bytes) -> str:
    start = data[:4096].removeprefix(b"\xef\xbb\xbf")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        start = start[2:].replace(b"\0", b"")
    start = start.lstrip()
    low = start.lower()
    for form, what, advice in TEXTS:
        if form.match(low):
            return f"is {what}, not an image. {advice}"
    if b"<svg" in low and low.startswith(b"<"):
        return "is an SVG drawing. Render it as PNG, and send that."
    if low.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in low[:1024]:
        return f"is a web page (HTML): the download gave an error page or a page around the image. {BYTES}"
    if low.startswith(b"<"):
        return f"is XML or HTML, such as a storage service's error. {BYTES}"
    if start.startswith(ENCODED) and BASE64.match(start[:64].strip()):
        return "is base64 inside base64, or base64 in a form's file. Encode the image's bytes once, and only in JSON."
    return f"is text, not an image. {BYTES}" if _is_text(start) else ""


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8", "strict" if len(start) < 4000 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\r\n\t" for letter in text)

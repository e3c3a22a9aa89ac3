"""Builds ICC profiles of colour spaces that a file names or describes instead of having a profile."""

import struct
from collections.abc import Callable

import numpy as np

Chromaticities = tuple[float, ...]  # x and y of white, red, green and blue

D65, DCI_WHITE, C_WHITE = (0.3127, 0.329), (0.314, 0.351), (0.31, 0.316)
SRGB_CHROMATICITIES: Chromaticities = (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
# By the codes of ITU-T H.273, which cICP in PNG and nclx in HEIF and AVIF have in common.
PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB_CHROMATICITIES,
    2: SRGB_CHROMATICITIES,  # not said
    4: (*C_WHITE, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (*DCI_WHITE, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
PQ, HLG = 16, 18
PQ_WHITE = 203 / 10_000  # the share of PQ's brightest that is the white of a page, by ITU-R BT.2408
HLG_WHITE = 0.75  # the signal that is
CURVE_ENTRIES = 4096

BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50 = np.array([0.9642, 1.0, 0.8249])
SRGB_CURVE = (
    b"para"
    + bytes(4)
    + struct.pack(">HH5i", 3, 0, *(round(65536 * v) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)))
)


def of_codes(primaries: int, transfer: int) -> bytes | None:
    """Returns the profile of a colour space by its codes in ITU-T H.273; None for sRGB and for unknown ones."""
    if primaries not in PRIMARIES:
        return None
    curve = SRGB_CURVE  # which viewers take for those of video too
    if transfer in GAMMAS:
        curve = _gamma(GAMMAS[transfer])
    elif transfer == PQ:
        curve = _sampled(_pq)
    elif transfer == HLG:
        curve = _sampled(_hlg)
    return _profile(PRIMARIES[primaries], curve)


def of_png(gama: bytes, chrm: bytes) -> bytes | None:
    """Returns the profile that the chunks gAMA and cHRM of a PNG describe, each possibly empty."""
    curve, chromaticities = SRGB_CURVE, SRGB_CHROMATICITIES
    if len(gama) == 4:
        value = int.from_bytes(gama, "big")
        if not 10_000 <= value <= 500_000:
            return None
        if abs(value - 45_455) > 500:  # that one is how encoders say sRGB
            curve = _gamma(100_000 / value)
    if len(chrm) == 32:
        chromaticities = tuple(value / 100_000 for value in struct.unpack(">8I", chrm))
        if max(abs(a - b) for a, b in zip(chromaticities, SRGB_CHROMATICITIES)) < 0.002:
            chromaticities = SRGB_CHROMATICITIES
    return _profile(chromaticities, curve)


def _profile(chromaticities: Chromaticities, curve: bytes) -> bytes | None:
    """Returns a profile of three primaries and one curve; None where it is sRGB or impossible."""
    if chromaticities == SRGB_CHROMATICITIES and curve == SRGB_CURVE:
        return None
    try:
        columns = _to_d50(chromaticities).T
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    if not np.isfinite(columns).all() or np.abs(columns).max() > 4:
        return None
    tags = [(name, _xyz(column)) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns)]
    tags += [(b"wtpt", _xyz(D50)), *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC"))]
    table, content = struct.pack(">I", len(tags)), b""
    for name, value in tags:
        table += struct.pack(">4sII", name, 128 + 4 + 12 * len(tags) + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    size = 128 + len(table) + len(content)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"", 0x04300000, b"mntr", b"RGB ", b"XYZ ", b"", b"acsp")
    return (header + bytes(28) + _xyz(D50)[8:]).ljust(128, b"\0") + table + content


def _to_d50(chromaticities: Chromaticities) -> np.ndarray:
    """Returns the matrix (3, 3) from linear RGB to XYZ under ICC's white."""
    xyz = [np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(chromaticities[::2], chromaticities[1::2])]
    white, primaries = xyz[0], np.array(xyz[1:]).T
    to_xyz = primaries * np.linalg.solve(primaries, white)
    adapt = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD
    return adapt @ to_xyz


def _xyz(value: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * float(part)) for part in value))


def _gamma(exponent: float) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HHi", 0, 0, round(65536 * exponent))


def _sampled(light: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """Returns a curve of the light, 0 to 1 where a page is white, by signal; what is brighter is white."""
    values = (light(np.linspace(0, 1, CURVE_ENTRIES)).clip(0, 1) * 65535).round().astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", CURVE_ENTRIES) + values.tobytes()


def _pq(signal: np.ndarray) -> np.ndarray:
    root = signal ** (1 / 78.84375)
    return (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125) / PQ_WHITE


def _hlg(signal: np.ndarray) -> np.ndarray:
    def scene(value: np.ndarray) -> np.ndarray:
        bright = (np.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12
        return np.where(value <= 0.5, value**2 / 3, bright)

    return (scene(signal) / scene(np.array(HLG_WHITE))) ** 1.2  # of a screen of 1000 candelas

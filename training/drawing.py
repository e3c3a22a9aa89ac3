"""Draws people and garments: the sample images of the demo, and what its small models are trained on.

Everything is a function of the seed. Shapes are laid out in units of 1/300 of the image's width (the image is
300 x 400 units, the body's axis at x = 0), drawn at twice the size and reduced, so the same seed gives the same image
at every size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from scipy.spatial import cKDTree

SUPERSAMPLING = 2
CELL = 8  # pixels of an image in one of `Pair.sources`
PRINT = (-25.0, 22.0, 25.0, 48.0)  # left, top, right and bottom of a print on the cloth, in units
NEAR = 8.0  # units on the cloth between what is worn and its source, at most
CLOTH_TYPES = ("upper", "lower", "overall")
BACKGROUND, HAIR, UPPER, SKIRT, PANTS, DRESS, FACE = 0, 2, 4, 5, 6, 7, 11
LABELS = {"top": UPPER, "pants": PANTS, "skirt": SKIRT, "dress": DRESS}
SHOES, LEGS, ARMS = (10, 9), (13, 12), (15, 14)  # right, left of the person: left and right side of the image

NECK, SHOULDER, ARMPIT, WAIST, HIP, CROTCH, KNEE, ANKLE = 90.0, 101.0, 123.0, 152.0, 184.0, 200.0, 278.0, 356.0

Colour = tuple[int, ...]  # R, G, B
Function = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Cloth(NamedTuple):
    """A piece of a garment: its number from 1; where (x, y) of the image is on it, (u, v); the colour of (u, v)."""

    piece: int
    place: Function
    colour: Function


Fill = Colour | Function | Cloth

# fmt: off
FABRICS: tuple[Colour, ...] = (
    (206, 38, 44), (232, 98, 36), (244, 190, 42), (250, 226, 120), (128, 176, 52), (36, 128, 70), (22, 128, 132),
    (96, 196, 204), (54, 120, 210), (30, 50, 118), (104, 62, 160), (176, 120, 206), (224, 74, 142), (246, 172, 194),
    (122, 30, 52), (120, 78, 48), (206, 172, 128), (244, 240, 230), (150, 154, 162), (44, 44, 50),
)
SKINS: tuple[Colour, ...] = (
    (250, 220, 198), (236, 192, 160), (212, 162, 124), (172, 118, 80), (128, 82, 54), (90, 58, 42),
)
HAIRS: tuple[Colour, ...] = (
    (34, 28, 28), (66, 42, 30), (110, 68, 38), (160, 112, 58), (222, 186, 116), (158, 64, 36), (150, 148, 150),
    (88, 54, 96),
)
# fmt: on


@dataclass(frozen=True)
class Pair:
    """One try-on with its truth. RGB images of one size, and two L images of the same size.

    person: somebody wearing something; garment: another garment flat on white; worn: the person wearing `garment`.
    mask: 255 where the garment goes, else 0; outside it `worn` equals `person`. labels: ATR classes 0 to 17 of
    `person`. dressed: L, 255 where `worn` shows `garment`. cloth_type: "upper", "lower" or "overall". beyond: `worn`
    without the mask's limit. print_box: left, top, right and bottom of the letters on it, if it has any. sources: int16
    (H // 8, W // 8), for every cell of `beyond` the number of the cell of `garment`, row by row, that shows the same
    piece of cloth; -1 where there is none.
    """

    person: Image.Image
    garment: Image.Image
    worn: Image.Image
    mask: Image.Image
    labels: Image.Image
    dressed: Image.Image
    cloth_type: str
    beyond: Image.Image
    print_box: tuple[int, int, int, int] | None
    sources: np.ndarray


@dataclass(frozen=True)
class Body:
    """Half widths in units, the arms' angles in radians from hanging down (shoulder, elbow; right then left), looks."""

    shoulder: float = 38.0
    waist: float = 29.0
    hip: float = 35.0
    arm: float = 8.5
    leg: float = 17.0
    arms: tuple[tuple[float, float], ...] = ((0.55, 0.0), (0.55, 0.0))
    stance: float = 6.0
    nod: float = 0.0
    skin: Colour = SKINS[1]
    hair: Colour = HAIRS[1]
    hair_style: str = "short"
    shoes: Colour = (40, 40, 44)

    def arm_joints(self, side: int) -> np.ndarray:
        """Shoulder, elbow and wrist of side -1 (image's left) or 1 as (3, 2)."""
        upper, bend = self.arms[(side + 1) // 2]
        start = np.array([side * (self.shoulder - self.arm), SHOULDER + self.arm])
        elbow = start + 48 * np.array([side * np.sin(upper), np.cos(upper)])
        return np.array([start, elbow, elbow + 44 * np.array([side * np.sin(upper + bend), np.cos(upper + bend)])])

    def leg_joints(self, side: int) -> np.ndarray:
        """Hip joint, knee and ankle of side -1 or 1 as (3, 2)."""
        x = self.hip * 0.5
        return np.array([[side * x, HIP], [side * (x + self.stance * 0.5), KNEE], [side * (x + self.stance), ANKLE]])


@dataclass(frozen=True)
class Garment:
    """What one garment is, whoever wears it. kind: "top", "pants", "skirt" or "dress"; lengths: shares of a limb."""

    kind: str
    colours: tuple[Colour, ...]
    pattern: str
    period: float
    angle: float
    sleeve: float
    sleeve_colour: int
    neckline: str
    hem: float
    ease: float
    flare: float

    @property
    def word(self) -> str:
        """Three or four letters, for the pattern that has some."""
        number = int(self.period * 1e9)
        return "".join(chr(ord("A") + number // 26**place % 26) for place in range(3 + number // 26**4 % 2))


class Camera:
    """Units to pixels: scale, tilt about a centre."""

    def __init__(
        self, width: int, height: int, scale: float = 1.0, tilt: float = 0.0, centre: tuple[float, float] = (0, 200)
    ) -> None:
        self.size = (width, height)
        self.scale = float(scale) * width / 300
        self.turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
        self.centre = np.array(centre)
        self.offset = np.array([width / 2, height / 2])

    def pixels(self, points: np.ndarray) -> np.ndarray:
        return (points - self.centre) @ self.turn.T * self.scale + self.offset

    def units(self, box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        y, x = np.mgrid[box[1] : box[3], box[0] : box[2]].astype(np.float32)
        points = (np.stack([x, y], -1) + 0.5 - self.offset) / self.scale @ self.turn + self.centre
        return points[..., 0], points[..., 1]


class Canvas:
    """A image and its label map, painted in layers through one camera."""

    def __init__(self, camera: Camera, background: Image.Image):
        self.camera = camera
        self.rgb = background
        self.labels = Image.new("L", camera.size, BACKGROUND)
        self.cloth = np.zeros((camera.size[1], camera.size[0], 3), np.float32)  # piece, u, v; 0 where there is no cloth

    def shape(self, *polygons: np.ndarray, holes: tuple[np.ndarray, ...] = ()) -> Image.Image:
        mask = Image.new("L", self.camera.size)
        draw = ImageDraw.Draw(mask)
        for fill, group in ((255, polygons), (0, holes)):
            for polygon in group:
                draw.polygon([tuple(p) for p in self.camera.pixels(polygon)], fill=fill)
        return mask

    def blur(self, mask: Image.Image, units: float) -> Image.Image:
        """Blurs where there is something to blur, which is most often little of the image."""
        box = mask.getbbox()
        if box is None:
            return mask
        radius = float(units * self.camera.scale)
        reach = 4 * round(radius) + 4  # beyond it nothing of the mask arrives
        left, top = max(0, box[0] - reach), max(0, box[1] - reach)
        part = mask.crop((left, top, min(mask.width, box[2] + reach), min(mask.height, box[3] + reach)))
        blurred = Image.new("L", mask.size)
        blurred.paste(part.filter(ImageFilter.GaussianBlur(radius)), (left, top))
        return blurred

    def strokes(self, lines: list[np.ndarray], width: float) -> Image.Image:
        mask = Image.new("L", self.camera.size)
        draw = ImageDraw.Draw(mask)
        for line in lines:
            points = [tuple(p) for p in self.camera.pixels(line)]
            draw.line(points, fill=255, width=max(1, round(width * self.camera.scale)))
        return mask

    def paint(
        self,
        mask: Image.Image,
        fill: Fill,
        label: int | None = None,
        relief: float = 0.0,
        folds: list | None = None,
        solid: Image.Image | None = None,
    ) -> None:
        """Cover `mask` with `fill`. relief (0 to 1) darkens towards the edges of `solid`, by default the mask's own;
        folds are lines of shade."""
        box = mask.getbbox()
        if box is None:
            return
        part = mask.crop(box)
        colour: np.ndarray
        cloth: np.ndarray | int = 0
        if isinstance(fill, Cloth):
            place = fill.place(*self.camera.units(box))
            colour = fill.colour(place[..., 0], place[..., 1]).astype(np.float32)
            cloth = np.insert(place, 0, fill.piece, axis=-1)
        elif callable(fill):
            colour = fill(*self.camera.units(box)).astype(np.float32)
        else:
            colour = np.broadcast_to(np.asarray(fill, np.float32), (part.height, part.width, 3))
        if relief:
            reach = round(12 * self.camera.scale)
            around = (solid or mask).crop((box[0] - reach, box[1] - reach, box[2] + reach, box[3] + reach))
            inside = (reach, reach, reach + part.width, reach + part.height)
            inner = np.asarray(self.blur(around, 5).crop(inside), np.float32) / 255
            light = self.blur(ImageChops.offset(around, round(4 * self.camera.scale), 0), 9).crop(inside)
            lit = np.asarray(light, np.float32) / 255
            colour = colour * (1 - relief * (1 - np.clip(2 * inner - 1, 0, 1)) - relief * 0.7 * (1 - lit))[..., None]
        if folds:
            shade = np.asarray(self.blur(self.strokes(folds, 3), 1.6).crop(box), np.float32) / 255
            colour = colour * (1 - 0.3 * shade)[..., None]
        layer = Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))
        self.rgb.paste(layer, box[:2], part)
        np.copyto(self.cloth[box[1] : box[3], box[0] : box[2]], cloth, "unsafe", (np.asarray(part) > 127)[..., None])
        if label is not None:
            self.labels.paste(label, box[:2], part)


def draw_pair(seed: int, width: int = 384, height: int = 512) -> Pair:
    """The try-on that `seed` stands for, `width` x `height` pixels (3:4 looks best)."""
    rng = np.random.default_rng(seed)
    cloth_type = CLOTH_TYPES[rng.choice(3, p=[0.6, 0.2, 0.2])]
    body = _body(rng)
    top = _garment(rng, "top")
    bottom = _garment(rng, "pants" if rng.random() < 0.6 else "skirt")
    dress = _garment(rng, "dress")
    wears_dress = cloth_type == "overall" and rng.random() < 0.3
    before = [dress] if wears_dress else [bottom, top]
    lower = "pants" if rng.random() < 0.5 else "skirt"
    garment = _garment(rng, {"upper": "top", "lower": lower, "overall": "dress"}[cloth_type])
    after = {"upper": [bottom, garment], "lower": [garment, top], "overall": [garment]}[cloth_type]

    size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    if cloth_type == "upper":
        zoom, centre = rng.uniform(1.35, 1.75), (rng.uniform(-10, 10), rng.uniform(130, 145))
    else:
        zoom, centre = rng.uniform(1.0, 1.1), (rng.uniform(-14, 14), rng.uniform(200, 206))
    camera = Camera(*size, zoom, rng.uniform(-0.05, 0.05), centre)
    background = _background(rng, *size)
    fold_seed, mask_seed = rng.integers(2**32, size=2)

    person, protected = _dressed(Canvas(camera, background.copy()), body, before, fold_seed)
    worn, _ = _dressed(Canvas(camera, background), body, after, fold_seed)
    flat, laid = _flat(garment, *size)
    mask = _agnostic(np.random.default_rng(mask_seed), person, body, cloth_type, protected).reduce(SUPERSAMPLING)
    mask = mask.point(lambda value: 255 * (value > 0))
    label = LABELS[garment.kind]
    dressed = worn.labels.resize((width, height), Image.Resampling.NEAREST).point(lambda value: 255 * (value == label))
    before_picture, after_picture = person.rgb.reduce(SUPERSAMPLING), worn.rgb.reduce(SUPERSAMPLING)
    return Pair(
        person=before_picture,
        garment=flat.reduce(SUPERSAMPLING),
        worn=Image.composite(after_picture, before_picture, mask),
        mask=mask,
        labels=person.labels.resize((width, height), Image.Resampling.NEAREST),
        dressed=ImageChops.multiply(dressed, mask),
        cloth_type=cloth_type,
        beyond=after_picture,
        print_box=_print_box(worn, label) if garment.pattern == "letters" else None,
        sources=_sources(worn.cloth, worn.labels, label, laid),
    )


def _print_box(worn: Canvas, label: int) -> tuple[int, int, int, int] | None:
    """Finds `Pair.print_box` on a garment with a label."""
    piece, u, v = np.moveaxis(worn.cloth, -1, 0)
    left, top, right, bottom = PRINT
    there = (piece == 1) & (left < u) & (u < right) & (top < v) & (v < bottom) & (np.asarray(worn.labels) == label)
    rows, columns = np.nonzero(there)
    if not len(rows):
        return None
    box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return tuple(int(side) // SUPERSAMPLING for side in box)


def _sources(worn: np.ndarray, labels: Image.Image, label: int, flat: np.ndarray) -> np.ndarray:
    """Finds `Pair.sources` from the cloth of both canvases, which is that garment's where the label is."""
    cell = CELL * SUPERSAMPLING
    middles = np.s_[cell // 2 :: cell, cell // 2 :: cell]
    wanted, there = worn[middles], np.asarray(labels)[middles] == label
    fine = np.s_[SUPERSAMPLING :: 2 * SUPERSAMPLING, SUPERSAMPLING :: 2 * SUPERSAMPLING]
    offered = flat[fine]
    rows, columns = (np.indices(offered.shape[:2]) * 2 + 1) // CELL
    cells = rows * (flat.shape[1] // cell) + columns
    sources = np.full(there.shape, -1, np.int16)
    for piece in np.unique(wanted[there][:, 0]):
        here, same = there & (wanted[..., 0] == piece), offered[..., 0] == piece
        if piece and same.any():
            distances, nearest = cKDTree(offered[same][:, 1:]).query(wanted[here][:, 1:])
            sources[here] = np.where(distances < NEAR, cells[same][nearest], -1)
    return sources


# What there is to draw


def _body(rng: np.random.Generator) -> Body:
    build = rng.uniform(0.88, 1.14)
    arms: tuple[tuple[float, float], ...]
    if rng.random() < 0.2:
        arms = ((rng.uniform(0.6, 0.75), -1.5), (rng.uniform(0.1, 0.3), rng.uniform(-0.1, 0.1)))
    elif rng.random() < 0.25:
        arms = ((rng.uniform(0.6, 0.75), -1.5), (rng.uniform(0.6, 0.75), -1.5))
    else:
        arms = tuple((rng.uniform(0.08, 0.42), rng.uniform(-0.3, 0.25)) for _ in range(2))
    shade = rng.uniform(0.94, 1.04)
    skin = SKINS[rng.integers(len(SKINS))]
    return Body(
        shoulder=38 * build * rng.uniform(0.93, 1.07),
        waist=28 * build * rng.uniform(0.9, 1.12),
        hip=35 * build * rng.uniform(0.94, 1.08),
        arm=8.5 * build,
        leg=16.5 * build,
        arms=arms if rng.random() < 0.5 else arms[::-1],
        stance=rng.uniform(0, 16),
        nod=rng.uniform(-3, 3),
        skin=tuple(int(min(255, c * shade)) for c in skin),
        hair=HAIRS[rng.integers(len(HAIRS))],
        hair_style=str(rng.choice(["short", "short", "bob", "long", "long", "bun", "bald", "curly"])),
        shoes=FABRICS[rng.integers(len(FABRICS))],
    )


def _garment(rng: np.random.Generator, kind: str) -> Garment:
    fabrics = np.array(FABRICS)[rng.choice(len(FABRICS), 3, replace=False)]
    colours = tuple(tuple(np.clip(fabric + rng.integers(-14, 15, 3), 8, 250).tolist()) for fabric in fabrics)
    patterns = ["solid", "letters", "stripes", "checks", "dots", "gradient", "block", "logo"]
    if kind in ("pants", "skirt"):
        patterns = ["solid", "solid", *patterns[2:6]]
    return Garment(
        kind=kind,
        colours=colours,
        pattern=str(rng.choice(patterns)),
        period=rng.uniform(15, 26),
        angle=float(rng.choice([0, 0, np.pi / 2, np.pi / 4])),
        sleeve=float(rng.choice([0.0, 0.26, 0.34, 0.55, 0.94, 0.94] if kind == "top" else [0.0, 0.0, 0.28, 0.94])),
        sleeve_colour=int(rng.choice([0, 0, 0, 1])),
        neckline=str(rng.choice(["crew", "vee", "scoop", "boat", "collar"])),
        hem=rng.uniform(0, 1) if kind != "pants" else float(rng.choice([0.3, 0.95, 0.95])),
        ease=rng.uniform(1, 7),
        flare=rng.uniform(0, 1),
    )


def _weave(garment: Garment, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The fabric's colour at (u, v) units across and along the cloth, as (..., 3)."""
    main, second = (np.asarray(c, np.float32) for c in garment.colours[:2])
    along = (u * np.sin(garment.angle) + v * np.cos(garment.angle)) / garment.period
    if garment.pattern == "stripes":
        share = (np.mod(along, 1) < 0.38) * 1.0
    elif garment.pattern == "checks":
        share = 0.4 * (np.mod(u / garment.period, 1) < 0.45) + 0.4 * (np.mod(v / garment.period, 1) < 0.45)
    elif garment.pattern == "dots":
        row = np.floor(v / garment.period)
        du = np.mod(u / garment.period + 0.5 * np.mod(row, 2), 1) - 0.5
        share = (du**2 + (np.mod(v / garment.period, 1) - 0.5) ** 2 < 0.075) * 1.0
    elif garment.pattern == "gradient":
        share = np.clip((v - 20) / (90 if garment.kind == "top" else 220), 0, 1) * 0.8
    elif garment.pattern == "block":
        share = (v > (62 if garment.kind == "top" else 56)) * 1.0
    elif garment.pattern == "logo":
        v = v - 40
        share = ((u**2 + v**2 < 190) if garment.angle == 0 else (np.maximum(abs(u), abs(v)) < 12)) * 1.0
        share = share * ~((abs(u) < 4) & (abs(v) < 8))
    elif garment.pattern == "letters":
        share = _letters(u, v, garment.word)
    else:
        share = np.zeros_like(u)
    return main + (second - main) * share[..., None]


def _letters(u: np.ndarray, v: np.ndarray, word: str) -> np.ndarray:
    """How much of (u, v) is printed with a word, 0 to 1, that fills `PRINT`."""
    left, top, right, bottom = PRINT
    printed = _printed(word)
    height, width = printed.shape
    column = np.floor((u - left) / (right - left) * width).astype(int)
    row = np.floor((v - top) / (bottom - top) * height).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return np.where(inside, printed[np.where(inside, row, 0), np.where(inside, column, 0)], 0.0)


@lru_cache(1)
def _printed(word: str) -> np.ndarray:
    """Returns bold letters that reach all four edges, float32 (256, 512), 0 to 1."""
    font, stroke = ImageFont.load_default(200), 9
    left, top, right, bottom = (int(side) for side in font.getbbox(word, stroke_width=stroke))
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), word, 255, font, stroke_width=stroke)
    return np.asarray(image.resize((512, 256), Image.Resampling.BILINEAR), np.float32) / 255


# Shapes


def _curve(points: list[tuple[float, float]], steps: int = 8) -> np.ndarray:
    """A Catmull-Rom spline through (n, 2) points."""
    p = np.array([points[0], *points, points[-1]], np.float64)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    spans = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.concatenate([*spans, p[-1:]])


def _symmetric(side: np.ndarray) -> np.ndarray:
    return np.concatenate([side, side[::-1] * (-1, 1)])


def _oval(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 2 * np.pi) -> np.ndarray:
    angle = np.linspace(start, end, 36)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], -1)


def _limb(joints: np.ndarray, widths: tuple[float, float, float], until: float = 1.0) -> np.ndarray:
    """The outline of a limb of three joints with half widths there, from its round start to the fraction `until`."""
    s = np.linspace(0, 2 * until, 28)
    line = np.stack([np.interp(s, [0, 1, 2], joints[:, i]) for i in (0, 1)], -1)
    smooth = line.copy()
    for _ in range(3):
        smooth[1:-1] = (smooth[:-2] + smooth[1:-1] * 2 + smooth[2:]) / 4
    along = np.gradient(smooth, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = along[:, ::-1] * (1, -1) * np.interp(s, [0, 1, 2], widths)[:, None]
    angle = np.linspace(0, np.pi, 12)[:, None]
    cap = smooth[0] - across[0] * np.cos(angle) - along[0] * widths[0] * np.sin(angle)
    return np.concatenate([smooth + across, (smooth - across)[::-1], cap])


def _skirt_side(body: Body, garment: Garment) -> list[tuple[float, float]]:
    hem = 228 + 92 * garment.hem
    return [
        (body.waist + 1.5, WAIST - 4),
        (body.hip + 3 + 4 * garment.flare, HIP - 4),
        (body.hip + 4 + 24 * garment.flare * (hem - HIP) / 130, hem),
    ]


def _trunk(body: Body, garment: Garment) -> np.ndarray:
    """A top's or dress's body without sleeves, closed at the neck."""
    edge = 0.78 if garment.sleeve == 0 else 1.0
    shoulders = [(9.0, NECK - 1.5), (body.shoulder * edge, SHOULDER - 1)]
    armpit = (body.shoulder - (5 if garment.sleeve == 0 else 3) + garment.ease * 0.5, ARMPIT)
    if garment.kind == "dress":
        lower = [armpit, *_skirt_side(body, garment)]
    else:
        lower = [armpit, (body.waist + garment.ease + 2, WAIST), (body.hip + garment.ease, HIP - 8 + 22 * garment.hem)]
    return _symmetric(np.concatenate([np.array(shoulders), _curve(lower)]))


def _neck_opening(garment: Garment) -> np.ndarray:
    y = NECK - 4
    if garment.neckline == "vee":
        return np.array([(-13, y - 4), (13, y - 4), (0, y + 32)], np.float64)
    rx, ry = {"scoop": (16, 24), "boat": (24, 10), "crew": (13, 12), "collar": (11, 10)}[garment.neckline]
    return _oval(0, y, rx, ry)


# Painting


def _paint_garment(canvas: Canvas, body: Body, garment: Garment, rng: np.random.Generator, flat: bool) -> None:
    """Paint the trunk, skirt or trousers of a garment; sleeves come with the arms."""
    label = LABELS[garment.kind]
    relief = 0.12 if flat else 0.3
    ratio = 36 / body.hip
    top = SHOULDER if garment.kind in ("top", "dress") else WAIST - 6

    cloth = Cloth(1, lambda x, y: np.stack([x * ratio, y - top], -1), lambda u, v: _weave(garment, u, v))
    trim = tuple(int(c * 0.72) for c in garment.colours[2 if garment.sleeve_colour else 0])
    if garment.kind in ("top", "dress"):
        opening = _neck_opening(garment)
        if flat:
            back = ImageChops.multiply(canvas.shape(opening), canvas.shape(_trunk(body, garment)))
            canvas.paint(back, tuple(int(c * 0.5) for c in garment.colours[0]), label)
        shape = canvas.shape(_trunk(body, garment), holes=(opening,))
        canvas.paint(shape, cloth, label, relief, _folds(body, garment, rng, flat))
        band = ImageChops.multiply(canvas.strokes([np.concatenate([opening, opening[:2]])], 4.5), shape)
        canvas.paint(band, trim, label)
        if garment.neckline == "collar":
            for side in (-1, 1):
                leaf = np.array([(0, NECK + 5), (9, NECK - 8), (18, NECK), (9, NECK + 17)]) * (side, 1)
                canvas.paint(canvas.shape(leaf), trim, label, 0.1)
    elif garment.kind == "skirt":
        edge = np.concatenate([[(0, WAIST - 4)], _curve(_skirt_side(body, garment))])
        canvas.paint(canvas.shape(_symmetric(edge)), cloth, label, relief, _folds(body, garment, rng, flat))
    else:
        wide = body.leg + 1 + garment.ease * 0.6
        widths = (wide, wide * (0.72 + 0.12 * garment.flare), wide * (0.5 + 0.3 * garment.flare))
        legs = [_limb(body.leg_joints(side), widths, garment.hem) for side in (-1, 1)]
        hip = (body.hip + 1 + garment.ease * 0.4, HIP - 4)
        seat = _curve([(body.waist + 1.5, WAIST - 4), hip, (body.hip * 0.5 + wide, HIP + 4)])
        seat = _symmetric(np.concatenate([seat, [(3, CROTCH + 6)]]))
        folds = [*_folds(body, garment, rng, flat), np.array([(0, HIP), (0, CROTCH + 12)])]
        canvas.paint(canvas.shape(*legs, seat), cloth, label, relief, folds)
    if garment.kind in ("skirt", "pants"):
        waistband = _symmetric(np.array([(body.waist + 2, WAIST - 5), (body.waist + 3, WAIST + 1)]))
        canvas.paint(canvas.shape(waistband), trim, label)


def _paint_sleeve(canvas: Canvas, body: Body, garment: Garment, side: int, flat: bool) -> None:
    if garment.sleeve == 0:
        return
    joints = body.arm_joints(side)
    wide = body.arm + 3 + garment.ease * 0.6
    long = garment.sleeve > 0.6
    widths = (wide + 1, wide * 0.92, wide * 0.72) if long else (wide + 1, wide + 0.5, wide)
    label = LABELS[garment.kind]
    plain = garment.colours[1] if garment.sleeve_colour else garment.colours[0]
    is_plain = garment.sleeve_colour or garment.pattern in ("logo", "letters", "block")

    def place(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        points = np.stack([x, y], -1)
        axis = (joints[1] - joints[0]) / 48
        along, across = (points - joints[0]) @ axis, (points - joints[0]) @ (axis[::-1] * (1, -1))
        bend = (joints[2] - joints[1]) / 44
        lower = along > 48
        along = np.where(lower, 48 + (points - joints[1]) @ bend, along)
        across = np.where(lower, (points - joints[1]) @ (bend[::-1] * (1, -1)), across)
        return np.stack([across, along], -1)

    def colour(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.asarray(plain, np.float32), (*u.shape, 3)) if is_plain else _weave(garment, u, v)

    folds = [] if flat or not long else [joints[1] + np.array([(-side * 7.0, -3), (side * 3.0, 3)])]
    shape = canvas.shape(_limb(joints, widths, garment.sleeve))
    solid = ImageChops.lighter(shape, canvas.shape(_trunk(body, garment)))
    canvas.paint(shape, Cloth(2 + (side > 0), place, colour), label, 0.12 if flat else 0.3, folds, solid)


def _folds(body: Body, garment: Garment, rng: np.random.Generator, flat: bool) -> list[np.ndarray]:
    if flat:
        return []
    if garment.kind in ("skirt", "dress"):
        hem = 228 + 92 * garment.hem
        starts = rng.uniform(-0.75, 0.75, 4)
        reach = body.hip + 22 * garment.flare
        return [
            np.array([(x * body.hip, WAIST + rng.uniform(10, 50)), (x * reach, hem - rng.uniform(2, 10))])
            for x in starts
        ]
    if garment.kind == "pants":
        knees = [body.leg_joints(side)[1] + (0, rng.uniform(-10, 6)) for side in (-1, 1)] if garment.hem > 0.5 else []
        return [np.array([knee + (-9, -2), knee + (4, 3)]) for knee in knees]
    lines = []
    for side in (-1, 1):
        y = rng.uniform(WAIST - 18, WAIST + 8)
        waist = [(body.waist + 2, y), (body.waist * 0.55, y + rng.uniform(3, 8)), (6, y + rng.uniform(2, 14))]
        armpit = [(body.shoulder - 6, ARMPIT), (body.shoulder - 15, ARMPIT + rng.uniform(8, 18))]
        lines += [_curve(line) * (side, 1) for line in (waist, armpit)]
    return lines


def _dressed(canvas: Canvas, body: Body, garments: list[Garment], fold_seed: int) -> tuple[Canvas, Image.Image]:
    """Paint a person into the canvas; returns it and the mask of face, hair, hands and shoes."""
    rng = np.random.default_rng(fold_seed)
    protected = []
    for side in (-1, 1):
        legs = _limb(body.leg_joints(side), (body.leg, body.leg * 0.66, body.leg * 0.4))
        canvas.paint(canvas.shape(legs), body.skin, LEGS[(side + 1) // 2], 0.22)
        x, y = body.leg_joints(side)[2]
        shoe = _curve([(-6, -5), (-8, 10), (4, 12), (17, 11), (12, 3), (6, -5)])
        protected.append(canvas.shape(shoe * (side, 1) + (x, y)))
        canvas.paint(protected[-1], body.shoes, SHOES[(side + 1) // 2], 0.25)
    chest = [(9, NECK + 1), (body.shoulder - 4, SHOULDER), (body.shoulder - 4, ARMPIT)]
    torso = _symmetric(_curve([*chest, (body.waist, WAIST), (body.hip, HIP), (body.hip * 0.5, CROTCH)]))
    canvas.paint(canvas.shape(torso), body.skin, FACE, 0.2)
    neck = np.array([(-8.5, 72), (8.5, 72), (9.5, NECK + 6), (-9.5, NECK + 6)], np.float64)
    canvas.paint(canvas.shape(neck), tuple(int(c * 0.9) for c in body.skin), FACE)
    for garment in garments:
        _paint_garment(canvas, body, garment, rng, flat=False)
    for side in (-1, 1):
        joints = body.arm_joints(side)
        arm = _limb(joints, (body.arm, body.arm * 0.85, body.arm * 0.62))
        figure = canvas.labels.point(lambda value: 255 * (value > 0))
        shadow = ImageChops.multiply(canvas.blur(canvas.shape(arm), 3.5), figure)
        canvas.paint(shadow.point(lambda value: value // 3), (20, 16, 24))
        canvas.paint(canvas.shape(arm), body.skin, ARMS[(side + 1) // 2], 0.22)
        _paint_sleeve(canvas, body, garments[-1], side, flat=False)
        forearm = (joints[2] - joints[1]) / 44
        palm = joints[2] + forearm * 6
        thumb = palm + np.array([-side * 5.0, -1])
        protected.append(canvas.shape(_oval(palm[0], palm[1], 6.4, 8.5), _oval(thumb[0], thumb[1], 2.6, 5)))
        canvas.paint(protected[-1], body.skin, ARMS[(side + 1) // 2], 0.15)
    protected.extend(_paint_head(canvas, body))
    union = protected[0]
    for part in protected[1:]:
        union = ImageChops.lighter(union, part)
    return canvas, union


def _paint_head(canvas: Canvas, body: Body) -> list[Image.Image]:
    x, y = body.nod, 60.0
    style, skin, hair = body.hair_style, body.skin, body.hair
    dark = tuple(int(c * 0.8) for c in skin)
    ears = canvas.shape(_oval(x - 18.5, y + 3, 4, 6), _oval(x + 18.5, y + 3, 4, 6))
    head = canvas.shape(_oval(x, y, 18.5, 23.5))
    canvas.paint(ears, dark, FACE)
    canvas.paint(head, skin, FACE, 0.16)
    for side in (-1, 1):
        eye = x + side * 7.5
        canvas.paint(canvas.shape(_oval(eye, y + 1, 3.6, 2.6)), (250, 250, 250))
        canvas.paint(canvas.shape(_oval(eye, y + 1.2, 2.1, 2.4)), (52, 40, 36))
        brow = canvas.strokes([_oval(eye, y - 3, 5, 3, np.pi * 1.2, np.pi * 1.8)], 1.4)
        canvas.paint(brow, tuple(int(c * 0.7) for c in hair))
        canvas.paint(canvas.blur(canvas.shape(_oval(x + side * 10, y + 9, 3.5, 2.5)), 1.5), (228, 128, 112))
    nose = canvas.strokes([_curve([(x, y + 2), (x + 2, y + 7), (x - 1, y + 8)])], 1.1)
    canvas.paint(nose, tuple(int(c * 0.72) for c in skin))
    canvas.paint(canvas.strokes([_oval(x, y + 11, 6.5, 4.2, np.pi * 0.15, np.pi * 0.85)], 1.8), (178, 66, 66))
    parts = [ears, head]
    if style == "bald":
        return parts
    length = {"short": y + 4, "bun": y + 2, "curly": y + 16, "bob": y + 30, "long": y + 66}[style]
    wide = {"short": 20.5, "bun": 20.0, "curly": 25.0, "bob": 25.0, "long": 25.5}[style]
    crown = _oval(x, y - 4, wide, 25, np.pi, 2 * np.pi)
    outside = [(wide, y - 4), (wide + 1, (y + length) / 2), (wide - 4, length)]
    curtain = _curve([*outside, (12, length - 2), (13, y + 20), (15, y - 4)])
    outline = np.concatenate([crown, curtain + (x, 0), (curtain * (-1, 1) + (x, 0))[::-1]])
    shapes = [outline]
    if style == "bun":
        shapes.append(_oval(x, y - 33, 10, 9))
    if style == "curly":
        angles = np.linspace(np.pi * 0.82, np.pi * 2.18, 11)
        shapes.extend(_oval(x + 22 * np.cos(a), y - 3 + 23 * np.sin(a), 8, 8) for a in angles)
    fringe = _oval(x + 1.5, y + 5, 16.5, 18)
    throat = np.array([(x - 13, y + 6), (x + 13, y + 6), (x + 13, 150.0), (x - 13, 150.0)])
    mask = canvas.shape(*shapes, holes=(fringe, throat))
    canvas.paint(mask, hair, HAIR, 0.2)
    return [*parts, mask]


def _flat(garment: Garment, width: int, height: int) -> tuple[Image.Image, np.ndarray]:
    """The garment laid flat on white, as large as fits, and its canvas's cloth."""
    body = Body(stance=10.0, leg=16.5)
    outlines = [_trunk(body, garment)] if garment.kind in ("top", "dress") else []
    if outlines and garment.sleeve:
        outlines += [_limb(body.arm_joints(side), (13, 13, 11), garment.sleeve) for side in (-1, 1)]
    if garment.kind == "skirt":
        outlines = [_symmetric(np.array(_skirt_side(body, garment)))]
    if garment.kind == "pants":
        outlines = [_limb(body.leg_joints(side), (22, 20, 18), garment.hem) for side in (-1, 1)]
        outlines.append(np.array([(0.0, WAIST - 6)]))
    points = np.concatenate(outlines)
    low, high = points.min(0), points.max(0)
    scale = min(250 / (high - low)[0], 340 / (high - low)[1], 2.6)
    camera = Camera(width, height, scale, centre=tuple((low + high) / 2))
    canvas = Canvas(camera, Image.new("RGB", (width, height), "white"))
    rng = np.random.default_rng(0)
    if garment.kind in ("top", "dress"):
        for side in (-1, 1):
            _paint_sleeve(canvas, body, garment, side, flat=True)
    _paint_garment(canvas, body, garment, rng, flat=True)
    covered = canvas.labels.point(lambda value: 255 * (value > 0))
    paper = Canvas(camera, Image.new("RGB", (width, height), "white"))
    shadow = paper.blur(covered, 2.5 / scale).point(lambda value: value // 3)
    paper.paint(ImageChops.offset(shadow, 0, round(width / 120)), (120, 120, 130))
    paper.rgb.paste(canvas.rgb, (0, 0), covered)
    return paper.rgb, canvas.cloth


def _agnostic(
    rng: np.random.Generator, person: Canvas, body: Body, cloth_type: str, protected: Image.Image
) -> Image.Image:
    """Where a garment may go: around the body, or its convex hull, sometimes sparing what is worn beside it."""

    def loose(kind: str, hem: float) -> Garment:
        return Garment(kind, ((0, 0, 0),) * 3, "solid", 9, 0, 0.97, 0, "crew", hem, ease=8, flare=1)

    arms = [_limb(body.arm_joints(side), (body.arm + 9, body.arm + 8, body.arm + 5)) for side in (-1, 1)]
    throat = _oval(0, NECK + 6, 22, 30)
    if cloth_type == "upper":
        parts = [_trunk(body, loose("top", 1.0)), *arms, throat]
    else:
        parts = [_symmetric(np.concatenate([[(0, WAIST - 8)], _curve(_skirt_side(body, loose("skirt", 0.95)))]))]
        parts += [_limb(body.leg_joints(side), (body.leg + 8, body.leg + 7, body.leg + 5)) for side in (-1, 1)]
        if cloth_type == "overall":
            parts += [_trunk(body, loose("dress", 1.0)), *arms, throat]
    style = rng.choice(["body", "hull", "spare"])
    if style != "body":
        parts.append(_hull(np.concatenate(parts)))
    mask = person.blur(person.shape(*parts), rng.uniform(2, 8) / 2).point(lambda value: 255 * (value > 24))
    kept = {"upper": [], "lower": [*ARMS], "overall": []}[cloth_type]
    if style == "spare":
        kept += {"upper": [PANTS, SKIRT, *LEGS], "lower": [UPPER], "overall": []}[cloth_type]
    for label in kept:
        beside = person.labels.point(lambda value, label=label: 255 * (value == label))
        protected = ImageChops.lighter(protected, beside)
    return ImageChops.multiply(mask, ImageChops.invert(protected))


def _turn(a: tuple, b: tuple, c: tuple) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _hull(points: np.ndarray) -> np.ndarray:
    """Returns the convex hull of (n, 2) points by Andrew's monotone chain.

    scipy's ConvexHull lists the same corners from another start, which moves single pixels of some masks: the weights
    were trained on these.
    """
    ordered = sorted(map(tuple, points.tolist()))
    chains = []
    for sequence in (ordered, ordered[::-1]):
        chain: list = []
        for p in sequence:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], p) <= 0:
                chain.pop()
            chain.append(p)
        chains.append(chain[:-1])
    return np.array(chains[0] + chains[1])


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A room, a studio, a park, a beach or a street, soft enough to stay behind."""
    camera = Camera(width, height)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]

    def blend(top: Colour, bottom: Colour) -> Image.Image:
        rows = np.asarray(top, np.float32) * (1 - y) + np.asarray(bottom, np.float32) * y
        return Image.fromarray(np.broadcast_to(rows, (height, width, 3)).astype(np.uint8))

    def pastel() -> Colour:
        return tuple(int(c) for c in rng.integers(150, 240, 3) * rng.uniform(0.85, 1.0))

    def block(x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        canvas.paint(canvas.shape(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])), colour)

    scene = rng.choice(["studio", "room", "park", "beach", "street", "lights"])
    floor = rng.uniform(270, 330)
    if scene == "studio":
        tone = pastel()
        canvas = Canvas(camera, blend(tone, tuple(int(c * 0.86) for c in tone)))
        canvas.paint(canvas.blur(canvas.shape(_oval(0, 372, 120, 18)), 8), tuple(int(c * 0.68) for c in tone))
    elif scene == "room":
        wall = pastel()
        canvas = Canvas(camera, blend(wall, tuple(int(c * 0.92) for c in wall)))
        block(-150, floor, 150, 400, tuple(int(c) for c in np.multiply((196, 156, 116), rng.uniform(0.7, 1.05))))
        block(-150, floor - 8, 150, floor, (240, 238, 232))
        side = rng.choice([-1, 1])
        block(side * 142, 50, side * 66, 160, (244, 244, 240))
        block(side * 136, 56, side * 72, 154, pastel())
    elif scene == "park":
        canvas = Canvas(camera, blend((150, 204, 240), (226, 242, 250)))
        for x in rng.uniform(-150, 150, 5):
            r = rng.uniform(28, 50)
            block(x - 4, floor - 70, x + 4, floor, (122, 90, 62))
            leaves = (int(rng.uniform(70, 120)), int(rng.uniform(140, 176)), 84)
            canvas.paint(canvas.shape(_oval(x, floor - 90, r, r * 1.2)), leaves, relief=0.2)
        block(-150, floor - 6, 150, 400, (142, 190, 98))
    elif scene == "beach":
        canvas = Canvas(camera, blend((120, 192, 236), (222, 240, 246)))
        block(-150, floor - 90, 150, floor, (64, 158, 192))
        block(-150, floor, 150, 400, (240, 218, 172))
        canvas.paint(canvas.shape(_oval(rng.uniform(-110, 110), 50, 20, 20)), (255, 240, 180))
    elif scene == "street":
        canvas = Canvas(camera, blend((190, 208, 226), (236, 232, 226)))
        for x in range(-150, 150, 50):
            tone, top = pastel(), rng.uniform(30, 150)
            block(x, top, x + 48, floor, tone)
            for row in np.arange(top + 14, floor - 20, 34).tolist():
                for column in (x + 9, x + 28):
                    block(column, row, column + 11, row + 17, tuple(int(c * 0.72) for c in tone))
        block(-150, floor, 150, 400, (164, 164, 170))
    else:
        night = tuple(int(c) for c in rng.integers(30, 90, 3))
        canvas = Canvas(camera, blend(night, tuple(int(c * 0.6) for c in night)))
        for _ in range(14):
            glow = canvas.shape(_oval(rng.uniform(-150, 150), rng.uniform(0, 400), *[rng.uniform(8, 24)] * 2))
            canvas.paint(glow.point(lambda value: value // 3), pastel())
    return canvas.rgb if scene == "lights" else canvas.rgb.filter(ImageFilter.GaussianBlur(width / 250))

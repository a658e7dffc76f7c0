"""ShapesWorld: a small synthetic world on which every part of HierVL runs in minutes on a CPU.

A scene shows one to four overlapping objects in front of a cluttered background. A class is a pattern (plain, striped,
dotted) in a colour (red, orange, green, blue). The outline of an object has no meaning. Both words of a class name are
visible within a patch or two, so that a small CLIP can learn them from captions alone. The background has look-alikes:
class colours in other textures, and class patterns in other colours.

Everything follows from ``(seed, index)``. Only NumPy draws; OpenCV just writes the PNG files.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hiervl.utils.files import write_bytes, write_json

PATTERNS = ("plain", "striped", "dotted")
COLORS = ("red", "orange", "green", "blue")
BACKGROUND = 0
CLASS_NAMES = ("background",) + tuple(f"{p} {c} shape" for p in PATTERNS for c in COLORS)
# RGB of each class, recognisable beside the image: full colour, dark for striped, pale for dotted.
PALETTE = (
    (128, 128, 128),
    (224, 36, 36), (240, 136, 20), (40, 170, 50), (40, 90, 224),
    (136, 12, 12), (160, 84, 0), (10, 96, 24), (16, 40, 136),
    (248, 140, 140), (252, 200, 120), (140, 220, 140), (140, 176, 252),
)  # fmt: skip

SPLITS: dict[str, int] = {"train": 1024, "val": 200, "test": 200}
SPLIT_SEEDS: dict[str, int] = {"train": 1, "val": 2, "test": 3}
# Written beside the captions; raise it when a change alters the pictures.
WORLD_VERSION = 1

CAPTION_TEMPLATES = (
    "a photo of a {}.",
    "this is a clear photo that shows a {}.",
    "a picture of a {}.",
    "a {}.",
    "there is a {} in the image.",
    "an image with a {}.",
)

# Hue in degrees; the gap between red and orange limits how far a hue may vary.
_HUES = {"red": 0.0, "orange": 30.0, "green": 125.0, "blue": 220.0}
_HUE_WANDER = 6.0
_OTHER_HUES = (285.0, 320.0)  # purple and pink: no class has them
# The most frequent class is five times as frequent as the rarest. Ranks are spread so that no colour and no pattern is
# rare as a whole.
_FREQUENCY_RATIO = 5.0
_FREQUENCY_RANKS = np.array([0, 7, 4, 10, 5, 1, 11, 8, 9, 6, 3, 2])
_CLASS_FREQUENCIES = _FREQUENCY_RATIO ** (-_FREQUENCY_RANKS / 11.0)
_CLASS_FREQUENCIES /= _CLASS_FREQUENCIES.sum()

_RADIUS = (9.0, 17.0)
_MIN_VISIBLE_PIXELS = 60
_MIN_VISIBLE_FRACTION = 0.35
_PLACEMENT_TRIALS = 12
_OUTLINES = ("circle", "ellipse", "triangle", "square", "hexagon", "star", "cross", "blob")
_SIDES = {"triangle": 3, "square": 4, "hexagon": 6}
_NOISE = 4.0  # standard deviation in grey levels


@dataclass
class Scene:
    """One annotated picture.

    Attributes:
        image: (S, S, 3) uint8, RGB.
        semantic: (S, S) uint8, index into ``CLASS_NAMES``, 0 is background.
        instances: (S, S) uint8, 0 for none, 1..n for the visible objects, back to front.
        classes: class index of instance 1..n.
        caption: a sentence that names exactly the classes in the picture, each once.
    """

    image: np.ndarray
    semantic: np.ndarray
    instances: np.ndarray
    classes: tuple[int, ...]
    caption: str


def generate_scene(seed: int, index: int, size: int = 64, max_objects: int = 4) -> Scene:
    """Draw scene ``index`` of the world ``seed``; equal arguments give equal scenes.

    Args:
        size: side S of the square picture in pixels. Objects keep their size in pixels.
        max_objects: the scene shows 1..max_objects objects, 0 draws the background alone.
    """
    rng = np.random.default_rng((seed, index))
    canvas = _background(rng, size)
    wanted = int(rng.integers(1, max_objects + 1)) if max_objects else 0
    instances = np.zeros((size, size), np.uint8)
    classes: list[int] = []
    for _ in range(wanted):
        coverage = _place(rng, instances, len(classes))
        if coverage is None:  # no space left: fewer objects rather than hidden ones
            break
        label = 1 + int(rng.choice(len(_CLASS_FREQUENCIES), p=_CLASS_FREQUENCIES))
        pattern, color = divmod(label - 1, len(COLORS))
        surface = _surface(rng, size, PATTERNS[pattern], _class_color(rng, COLORS[color]))
        canvas += coverage[..., None] * (surface - canvas)
        classes.append(label)
        instances[coverage >= 0.5] = len(classes)
    semantic = np.array([BACKGROUND] + classes, np.uint8)[instances]
    image = _light(rng, canvas)
    return Scene(image, semantic, instances, tuple(classes), caption(rng, sorted(set(classes))))


def generate_close_up(seed: int, index: int, size: int = 32) -> Scene:
    """A picture filled by the surface of one object, with no background; arguments as above."""
    rng = np.random.default_rng((seed, index))
    label = 1 + int(rng.integers(len(CLASS_NAMES) - 1))
    pattern, color = divmod(label - 1, len(COLORS))
    surface = _surface(rng, size, PATTERNS[pattern], _class_color(rng, COLORS[color]))
    everywhere = np.ones((size, size), np.uint8)
    return Scene(_light(rng, surface), label * everywhere, everywhere, (label,), caption(rng, [label]))


def caption(rng: np.random.Generator, classes: list[int]) -> str:
    """A sentence that names ``classes`` (background where there is none) in random order."""
    names = [CLASS_NAMES[c] for c in rng.permutation(classes or [BACKGROUND])]
    listed = " and a ".join([", a ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return CAPTION_TEMPLATES[rng.integers(len(CAPTION_TEMPLATES))].format(listed)


def write_split(root: os.PathLike, split: str, count: int | None = None, seed: int | None = None) -> None:
    """Write a split as PNG files. Does nothing if it is already complete.

    Writes ``images/{split}/{index:05d}.png`` (RGB), ``labels/{split}/`` (class indices) and
    ``instances/{split}/`` (instance numbers) of the same names, and ``captions_{split}.json``
    with the keys ``world``, ``seed``, ``count`` and ``captions`` (a list, by index).

    Every file gets its name by one rename, the captions last. So the next call completes an interrupted one, and
    concurrent calls write the same bytes over each other.

    Args:
        count: number of scenes, ``SPLITS[split]`` if not given.
        seed: seed of the world, ``SPLIT_SEEDS[split]`` if not given.
    """
    root = Path(root)
    count = SPLITS[split] if count is None else count
    seed = SPLIT_SEEDS[split] if seed is None else seed
    header = {"world": WORLD_VERSION, "seed": seed, "count": count}
    folders = [root / kind / split for kind in ("images", "labels", "instances")]
    captions_file = root / f"captions_{split}.json"
    if _is_complete(folders, captions_file, header):
        return
    names = [f"{index:05d}.png" for index in range(count)]
    captions = []
    for index, name in enumerate(names):
        scene = generate_scene(seed, index)
        captions.append(scene.caption)
        for folder, array in zip(folders, (scene.image[..., ::-1], scene.semantic, scene.instances)):
            write_bytes(folder / name, cv2.imencode(".png", array)[1].tobytes())
    for folder in folders:  # scenes of an earlier, longer version of the split
        for stale in {path.name for path in folder.glob("*.png")}.difference(names):
            (folder / stale).unlink(missing_ok=True)
    write_json(captions_file, {**header, "captions": captions}, indent=1)


def _is_complete(folders: list[Path], captions_file: Path, header: dict[str, int]) -> bool:
    try:
        written = json.loads(captions_file.read_text())
        files = [len(list(folder.glob("*.png"))) for folder in folders]
    except (OSError, ValueError):
        return False
    return files == [header["count"]] * len(folders) and header.items() <= written.items()


# ---------------------------------------------------------------------------- drawing
# Canvases are (S, S, 3) float in 0..1; coverages and textures (S, S) float in 0..1.


def _place(rng: np.random.Generator, instances: np.ndarray, placed: int) -> np.ndarray | None:
    """Coverage of a new foremost object that leaves all objects visible, or None."""
    size = len(instances)
    areas = np.bincount(instances.ravel(), minlength=placed + 1)[1:]
    for _ in range(_PLACEMENT_TRIALS):
        center = rng.uniform(0.08 * size, 0.92 * size, 2)
        coverage = _outline(rng, size, center, rng.uniform(*_RADIUS))
        solid = coverage >= 0.5
        remaining = np.bincount(instances[~solid], minlength=placed + 1)[1:]
        visible = (remaining >= _MIN_VISIBLE_FRACTION * areas) & (remaining >= _MIN_VISIBLE_PIXELS)
        if solid.sum() >= _MIN_VISIBLE_PIXELS and visible.all():
            return coverage
    return None


def _outline(rng: np.random.Generator, size: int, center: np.ndarray, radius: float) -> np.ndarray:
    """Coverage of a randomly rotated random outline, given as distance by angle."""
    y, x = np.mgrid[:size, :size] + 0.5
    distance = np.hypot(y - center[0], x - center[1])
    angle = np.arctan2(y - center[0], x - center[1]) + rng.uniform(0, 2 * np.pi)
    kind = _OUTLINES[rng.integers(len(_OUTLINES))]
    if kind == "circle":
        reach = 1.0
    elif kind == "ellipse":
        reach = 0.62 / np.sqrt(1 - (1 - 0.62**2) * np.cos(angle) ** 2)
    elif kind in _SIDES:
        sector = 2 * np.pi / _SIDES[kind]
        reach = 1.15 * np.cos(sector / 2) / np.cos(angle % sector - sector / 2)
    elif kind == "star":
        sector = 2 * np.pi / 5
        reach = 0.55 + 0.6 * np.abs(angle % sector - sector / 2) / (sector / 2)
    elif kind == "cross":
        arm = np.maximum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))
        # Along an arm its end is the limit, beside it the arm's width.
        reach = np.minimum(1.0 / arm, 0.45 / np.maximum(np.sqrt(1 - arm**2), 1e-6))
        reach = np.maximum(reach, 0.45 / arm)
    else:
        lobes = rng.integers(2, 5)
        reach = 0.85 + 0.2 * np.sin(lobes * angle) + 0.1 * np.sin((lobes + 1) * angle)
    return np.clip(reach * radius - distance + 0.5, 0.0, 1.0)


def _surface(rng: np.random.Generator, size: int, pattern: str, color: np.ndarray) -> np.ndarray:
    """Canvas covered by ``pattern`` in ``color`` and a lighter or darker companion."""
    if pattern == "plain":
        return np.broadcast_to(color, (size, size, 3)).copy()
    companion = 0.25 * color + 0.72 if rng.random() < 0.5 else 0.25 * color
    y, x = np.mgrid[:size, :size] + rng.uniform(0, 8, (2, 1, 1))
    turn = rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    if pattern == "striped":
        period = rng.uniform(4.0, 6.5)
        texture = np.clip(0.5 + 1.5 * np.sin(2 * np.pi * along / period), 0.0, 1.0)
    else:
        period = rng.uniform(5.0, 6.5)
        to_dot = np.hypot((along % period) - period / 2, (across % period) - period / 2)
        texture = np.clip(0.33 * period - to_dot + 0.5, 0.0, 1.0)
    return color + texture[..., None] * (companion - color)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Muted colours that change slowly, with small look-alikes of objects on them."""
    knots = np.stack([_rgb(rng.uniform(0, 360), rng.uniform(0.05, 0.4), rng.uniform(0.3, 0.8))
                      for _ in range(16)]).reshape(4, 4, 3)  # fmt: skip
    weights = np.maximum(0, 1 - np.abs(np.linspace(0, 3, size)[:, None] - np.arange(4)))
    canvas = np.einsum("yi,xj,ijc->yxc", weights, weights, knots)
    for _ in range(round(rng.integers(2, 6) * (size / 64) ** 2)):  # as dense at every size
        alpha, surface = _distractor(rng, size)
        canvas += alpha[..., None] * (surface - canvas)
    return canvas


def _distractor(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Alpha and canvas of a distractor with the colour or the pattern of a class, not both."""
    center = rng.uniform(0, size, 2)
    color = _class_color(rng, COLORS[rng.integers(len(COLORS))])
    kind = rng.integers(4)
    if kind == 0:  # a haze of a class colour: no edge, never saturated
        y, x = np.mgrid[:size, :size] + 0.5
        spread = rng.uniform(4.0, 8.0)
        squared = (y - center[0]) ** 2 + (x - center[1]) ** 2
        return 0.6 * np.exp(-squared / (2 * spread**2)), np.broadcast_to(color, (size, size, 3))
    if kind == 1:  # specks of a class colour
        grain = rng.random((size, size, 1)) < 0.5
        surface = np.where(grain, color, rng.uniform(0.2, 0.8))
        return _outline(rng, size, center, rng.uniform(5.0, 10.0)), surface
    if kind == 2:  # a wire of a class colour
        y, x = np.mgrid[:size, :size] + 0.5
        turn = rng.uniform(0, np.pi)
        off = np.abs((x - center[1]) * np.sin(turn) - (y - center[0]) * np.cos(turn))
        return np.clip(1.0 - off, 0.0, 1.0), np.broadcast_to(color, (size, size, 3))
    gray_or_other = rng.integers(3)  # an object in a colour that no class has
    other = (
        np.full(3, rng.uniform(0.3, 0.9))
        if gray_or_other == 0
        else _rgb(_OTHER_HUES[gray_or_other - 1], rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.9))
    )
    surface = _surface(rng, size, PATTERNS[rng.integers(len(PATTERNS))], other)
    return _outline(rng, size, center, rng.uniform(5.0, 11.0)), surface


def _light(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Brightness, a gradient of light across the picture, sensor noise; gives (S, S, 3) uint8."""
    size = len(canvas)
    ramp = np.linspace(-0.5, 0.5, size)
    slopes = rng.uniform(-0.25, 0.25, 2)
    light = rng.uniform(0.7, 1.15) + slopes[0] * ramp[:, None] + slopes[1] * ramp[None, :]
    noisy = 255.0 * canvas * light[..., None] + rng.normal(0.0, _NOISE, canvas.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _class_color(rng: np.random.Generator, color: str) -> np.ndarray:
    hue = _HUES[color] + rng.uniform(-_HUE_WANDER, _HUE_WANDER)
    return _rgb(hue, rng.uniform(0.75, 1.0), rng.uniform(0.65, 1.0))


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3,) RGB in 0..1 of a hue in degrees, saturation and value in 0..1."""
    distance = (np.array([5.0, 3.0, 1.0]) + hue / 60.0) % 6.0
    return value * (1 - saturation * np.clip(np.minimum(distance, 4.0 - distance), 0.0, 1.0))

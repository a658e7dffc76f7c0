"""Photographs made up of noise, what people draw over theirs, and folders of them."""

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

COLORS = np.array([[0, 0, 0], [220, 20, 60], [30, 200, 40], [70, 70, 250]], dtype=np.uint8)
STEMS = [f"shot_{number}" for number in range(4)]


def photograph(seed, size=(120, 160)):
    """Smooth, dull texture with objects that are lighter; and the objects' labels."""
    rng = np.random.default_rng(seed)
    texture = sum(
        cv2.resize(rng.normal(0, 30, (size[0] // step, size[1] // step)).astype(np.float32), size[::-1])
        for step in (4, 10, 40)
    )
    labels = np.zeros(size, dtype=np.uint8)
    for label in (1, 2, 3):
        y, x = rng.integers(10, size[0] - 50), rng.integers(10, size[1] - 50)
        labels[y : y + 40, x : x + 40] = label
    gray = 110 + texture + 15 * (labels > 0)
    return np.clip(gray[..., None] * [1.05, 1.0, 0.9], 0, 255).astype(np.uint8), labels


def half(image, labels):
    return image // 2 + COLORS[labels] // 2


def half_of_objects(image, labels):
    return np.where(labels[..., None] > 0, half(image, labels), image)


def opaque_objects(image, labels):
    return np.where(labels[..., None] > 0, COLORS[labels], image)


def outlines(image, labels):
    edge = ndimage.morphological_gradient(labels, size=3) > 0
    return np.where(edge[..., None], np.uint8([255, 0, 0]), image)


def boxes(image, labels):
    drawn = image.copy()
    for box in ndimage.find_objects(labels):
        cv2.rectangle(drawn, (box[1].start, box[0].start), (box[1].stop, box[0].stop), (255, 255, 0), 2)
    return drawn


def save(root, **pictures):
    """Write ``folder=function`` of image and labels, for every stem; files are PNG, photographs JPEG."""
    for number, stem in enumerate(STEMS):
        image, labels = photograph(number)
        for folder, make in pictures.items():
            picture = make(image, labels)
            path = root / folder / (f"{stem}.jpg" if picture.ndim == 3 and make is not colored else f"{stem}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.astype(np.uint8)).save(path, quality=95)


def plain(image, labels):
    return image


def masks(image, labels):
    return labels


def colored(image, labels):
    return COLORS[labels]


def mirrored(image, labels):
    return np.ascontiguousarray(image[:, ::-1])

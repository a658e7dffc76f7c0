"""Predict many files. Files that cannot be read are reported, and the others are predicted."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from hiervl.data.loading.bands import Bands, has_rasterio
from hiervl.data.loading.readers import read_image
from hiervl.inference.annotation_drafts import FORMATS as DRAFT_FORMATS
from hiervl.inference.geotiff import GeoReference, Raster, is_tiff, read_values, write_raster
from hiervl.inference.inputs import Item, Video
from hiervl.inference.predictor import HierVLPredictor, Prediction
from hiervl.inference.results import ResultFolder, confidence_bytes
from hiervl.utils.errors import UserError
from hiervl.utils.files import whole_file, write_json, write_png

# TIFFs of more pixels are read and written by windows.
WHOLE_PIXELS = 64_000_000
# Longer side of the overlay of an image that is read by windows.
PREVIEW_SIDE = 2048
READ_AHEAD = 2  # images in memory while the network works on another one


class WholeImage(NamedTuple):
    """An image in memory."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB
    georeference: GeoReference | None = None


class BatchPredictor:
    """Predicts items and writes their results."""

    def __init__(self, predictor: HierVLPredictor, results: ResultFolder):
        self.predictor = predictor
        self.results = results

    def run(self, items: Sequence[Item]) -> Iterator[tuple[Item, str | None]]:
        """Predict every item. Yields it with an error message, or None.

        Raises:
            UserError: the results cannot be written.
        """
        for item, source in read_ahead(items, self.predictor.bands):
            try:
                self._predict(item, source)
            except UserError as error:
                yield item, str(error)
            except torch.OutOfMemoryError:
                yield item, f"{item.path} does not fit into the GPU's memory: lower --window-batch."
            except OSError as error:
                raise UserError(f"{self.results.folder} cannot be written to ({error.strerror or error}).") from error
            else:
                yield item, None

    def names(self, items: Iterable[Item]) -> Iterator[str]:
        """Names of all images, including the frames of finished videos."""
        for item in items:
            if not item.is_video:
                yield item.name
                continue
            record = self.results.record(item.name) or {}
            yield from (_frame_name(item, index) for index in range(record.get("frames", 0)))

    def _predict(self, item: Item, source: None | WholeImage | UserError) -> None:
        if isinstance(source, UserError):
            raise source
        if source is not None:
            self._whole(item, source)
        elif item.is_video:
            self._video(item)
        else:
            self._by_windows(item)

    def _ask(self, pixels: np.ndarray) -> Prediction:
        kinds = self.results.kinds
        return self.predictor(pixels, instances="instances" in kinds, panoptic="panoptic" in kinds)

    def _whole(self, item: Item, source: WholeImage) -> None:
        prediction = self._ask(source.pixels)
        if source.georeference is None:
            self.results.write(item.name, item.path, source.pixels, prediction)
            return
        maps = {"mask": prediction.semantic, "confidence": confidence_bytes(prediction.confidence)}
        for kind in set(maps) & set(self.results.kinds):
            with self._raster_of(kind, item, maps[kind].shape, source.georeference) as write:
                write(0, 0, maps[kind])
        self.results.write(item.name, item.path, source.pixels, prediction, skip=tuple(maps))

    def _raster_of(self, kind: str, item: Item, size, georeference: GeoReference | None):
        is_mask = kind == "mask"
        colors = self.results.colors if is_mask else None
        dtype = self.predictor.label_type if is_mask else np.uint8
        return write_raster(self.results.path(kind, item.name, ".tif"), size, dtype, georeference, colors)

    def _by_windows(self, item: Item) -> None:
        """Predict an image that is never in memory as a whole."""
        whole = {"instances", "panoptic", *DRAFT_FORMATS} & set(self.results.kinds)
        if whole:
            raise UserError(
                f"{item.path} is so large that it is read by windows, which {', '.join(sorted(whole))} do not support: "
                "leave them out of --save for it, or cut it into tiles."
            )
        raster = Raster(item.path, self.predictor.bands)
        counts, sure = np.zeros(len(self.results.names)), np.zeros(len(self.results.names))
        georeference = raster.georeference
        with (
            self._raster_of("mask", item, raster.size, georeference) as write_mask,
            self._raster_of("confidence", item, raster.size, georeference) as write_confidence,
        ):
            for strip in self.predictor.strips(raster.read, raster.size):
                write_mask(strip.top, strip.left, strip.labels)
                write_confidence(strip.top, strip.left, confidence_bytes(strip.confidence))
                strip_counts = self.results.count(strip.labels, strip.confidence)
                counts, sure = counts + strip_counts[0], sure + strip_counts[1]
        if "overlay" in self.results.kinds:
            self._preview(item, raster)
        raster.close()
        for kind in {"mask", "confidence"} - set(self.results.kinds):
            os.remove(self.results.path(kind, item.name, ".tif"))
        self.results.write_record(item.name, item.path, raster.size, counts, sure, by_windows=True)

    def _preview(self, item: Item, raster: Raster) -> None:
        factor = min(1.0, PREVIEW_SIDE / max(raster.size))
        size = (max(1, round(raster.size[0] * factor)), max(1, round(raster.size[1] * factor)))
        labels = read_values(self.results.path("mask", item.name, ".tif"), size)
        prediction = Prediction(labels, np.zeros(0), None, None, self.predictor.classes)
        drawn = self.results.overlay(raster.read(reduced_to=size), prediction)
        write_png(self.results.path("overlay", item.name), Image.fromarray(drawn))

    def _video(self, item: Item) -> None:
        """Predict every frame as an image, and write the overlays as a video. It is marked as done when all frames
        are."""
        if self.results.drafts.formats:
            raise UserError(
                f"{item.path} is a video, which {', '.join(self.results.drafts.formats)} cannot annotate: save its "
                "frames as images first."
            )
        video = Video(item.path)
        path = self.results.path("overlay", item.name, ".mp4") if "overlay" in self.results.kinds else ""
        with whole_file(path, ending=".mp4") if path else nullcontext() as overlays:
            count = self._frames(item, video, overlays)
        record = {"file": item.path, "frames": count, "fps": video.fps, "saved": list(self.results.kinds)}
        write_json(self.results.path("json", item.name, ".json"), record)

    def _frames(self, item: Item, video: Video, overlays: Path | None) -> int:
        """Write the results of every frame, and the overlays as the video ``overlays``. Returns the number of
        frames."""
        writer, count = None, 0
        try:
            for count, frame in enumerate(video, start=1):
                name = _frame_name(item, count - 1)
                prediction = self._ask(frame)
                self.results.write(name, f"{item.path}#{count - 1}", frame, prediction, skip=("overlay",))
                if overlays is not None:
                    drawn = _even(self.results.overlay(frame, prediction, range(len(self.results.names))))
                    if writer is None:
                        writer = _video_writer(str(overlays), video.fps, drawn.shape)
                    writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        finally:
            if writer is not None:
                writer.release()
        return count


def read_ahead(
    items: Sequence[Item], bands: Bands | None = None
) -> Iterator[tuple[Item, None | WholeImage | UserError]]:
    """Items with their pixels, read while the network works. None instead of pixels: read the image by windows."""
    with ThreadPoolExecutor(1) as reader:
        waiting: list[tuple[Item, Future]] = []
        for item in items:
            waiting.append((item, reader.submit(_read, item, bands)))
            if len(waiting) > READ_AHEAD:
                first, future = waiting.pop(0)
                yield first, future.result()
        for item, future in waiting:
            yield item, future.result()


def _read(item: Item, bands: Bands | None) -> None | WholeImage | UserError:
    if item.is_video:
        return None
    try:
        if not (is_tiff(item.path) and has_rasterio()):
            return WholeImage(read_image(item.path, bands))
        raster = Raster(item.path, bands)
        try:
            if raster.size[0] * raster.size[1] > WHOLE_PIXELS:
                return None
            if raster.georeference is None:
                return WholeImage(read_image(item.path, bands))
            return WholeImage(raster.read(), raster.georeference)
        finally:
            raster.close()
    except UserError as error:
        hint = " (with rasterio installed it is read by windows)" if "too many pixels" in str(error) else ""
        return UserError(f"{error}{hint if is_tiff(item.path) else ''}")
    except OSError as error:
        return UserError(f"{item.path} cannot be read ({error.strerror or error}).")
    except MemoryError:
        return UserError(f"{item.path} does not fit into memory: cut it into tiles, or save it as a TIFF.")


def _frame_name(item: Item, index: int) -> str:
    return f"{item.name}/{index:06d}"


def _video_writer(path: str, fps: float, shape) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), fps, (shape[1], shape[0]))
    if not writer.isOpened():
        raise UserError("this build of OpenCV cannot write MP4 videos: leave overlay out of --save.")
    return writer


def _even(picture: np.ndarray) -> np.ndarray:
    """Make both sides even, because video codecs need that."""
    height, width = picture.shape[:2]
    return cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)

"""Pictures of the images and pseudo-labels that a semi-supervised run learns from, drawn during training."""

from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from PIL import Image

from hiervl.data.classes.definitions import distinct_colors
from hiervl.data.loading.loaders import load_unlabeled
from hiervl.data.loading.mappers import UnlabeledMapper
from hiervl.data.loading.streams import sample_generator
from hiervl.semi_supervised.pseudo_labels import make_pseudo_labels
from hiervl.semi_supervised.step import SemiSupervisedStep
from hiervl.utils.tolerance import going_on_without
from hiervl.visualization.pictures import Row, comparison_sheet

FOLDER = "training_pictures"
IMAGES = 4


class TrainingPictures(HookBase):
    """Every ``period`` iterations and after the last one, draw the same unlabelled images to disk and TensorBoard:
    image | strong views | teacher's prediction | kept pseudo-labels | student's prediction."""

    def __init__(self, cfg, step: SemiSupervisedStep, period: int):
        self.cfg, self.step, self.period = cfg, step, period
        self._items: list[dict] | None = None

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if next_iter != self.trainer.max_iter and next_iter % self.period:
            return
        if comm.is_main_process():
            path = Path(self.cfg.OUTPUT_DIR) / FOLDER / f"iteration_{next_iter:07d}.png"
            with going_on_without(str(path)):
                self.draw(str(path))
                sheet = np.array(Image.open(path))
                self.trainer.storage.put_image("training", torch.from_numpy(sheet).permute(2, 0, 1))
        comm.synchronize()

    def draw(self, path: str) -> None:
        """Write the sheet to a PNG file."""
        metadata = MetadataCatalog.get(self.cfg.DATASETS.TRAIN[0])
        names = self.step.student.class_names
        colors = metadata.get("stuff_colors")
        if colors is None or len(colors) != len(names):
            colors = distinct_colors(len(names))
        comparison_sheet(self._rows(), names, colors, path)

    @torch.no_grad()
    def _rows(self) -> list[Row]:
        if self._items is None:
            self._items = picture_items(self.cfg)
        step, items = self.step, self._items
        views = step.views(items)
        scores = {}
        for name, network in (("teacher", step.teacher.network), ("student", step.student)):
            was_training = network.training
            network.eval()
            scores[name] = network.semantic_maps(views.weak).float()
            network.train(was_training)
        pseudo = make_pseudo_labels(
            scores["teacher"], views.valid, step.threshold.keeps, ignore_value=step.ignore_value
        )
        kept = pseudo.labels.masked_fill(~pseudo.keep, step.ignore_value)
        rows = []
        for i, item in enumerate(items):
            panels = [("image", _picture(views.weak[i]))]
            panels += [(f"strong {n + 1}", _picture(view[i])) for n, view in enumerate(views.strong)]
            panels += [("teacher", pseudo.labels[i].cpu().numpy()), ("kept", kept[i].cpu().numpy())]
            panels.append(("student", scores["student"][i].argmax(0).cpu().numpy()))
            rows.append((Path(item["file_name"]).stem, panels))
        return rows


def picture_items(cfg) -> list[dict]:
    """A few unlabelled images for the sheets of a run, always the same and with the same augmentation."""
    dicts, mapper = load_unlabeled(cfg), UnlabeledMapper.from_config(cfg)
    chosen = dicts[:: max(1, len(dicts) // IMAGES)][:IMAGES]
    return [mapper(entry, sample_generator(max(cfg.SEED, 0), "pictures", i)) for i, entry in enumerate(chosen)]


def _picture(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).to(torch.uint8).cpu().numpy()

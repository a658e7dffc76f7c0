"""``python -m hiervl suggest-labels RUN``: suggest unlabelled images to label next, with drafts of their masks."""

import csv
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image
from tqdm import tqdm

from hiervl.data.classes.records import write_classes
from hiervl.data.folders.dataset import register_from_config
from hiervl.data.folders.kinds import describe_unused
from hiervl.data.loading.bands import Bands
from hiervl.data.loading.loaders import load_labeled, load_unlabeled
from hiervl.data.loading.readers import read_image
from hiervl.inference.annotation_drafts import FORMATS, AnnotationDrafts, DraftImage, regions_of
from hiervl.inference.annotation_files import CocoDraft
from hiervl.inference.batch import WholeImage, read_ahead
from hiervl.inference.inputs import Item, left_out, list_items
from hiervl.inference.label_suggestion import LabelScorer, ScoreTable, Suggestion, suggest
from hiervl.inference.predictor import HierVLPredictor, Prediction
from hiervl.inference.restore import Restored, restore_network
from hiervl.inference.results import confidence_bytes, palette_image
from hiervl.utils.errors import UserError
from hiervl.utils.files import whole_file, write_png, write_text
from hiervl.visualization.pictures import PANEL_MAX, comparison_sheet

HELP = "choose the unlabelled images that are worth labelling next (experimental)"

SOME_FAILED = 1
DEFAULT_FOLDER = "suggested_labels"
LIST_FILE = "suggested.txt"
SHEET_ROWS = 50  # the first images; a picture of more would be too long to open

logger = logging.getLogger(__name__)


def add_arguments(parser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a run, or a checkpoint")
    parser.add_argument("--unlabeled", nargs="+", metavar="DIR", help="folders or files of images (those of the run)")
    parser.add_argument("--count", type=int, default=20, help="how many to choose")
    parser.add_argument("--output", help=f"a new folder for the results ({DEFAULT_FOLDER} in the run's)")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=[], help="drafts for these tools, beside COCO's"
    )
    parser.add_argument("--device", default="", help="such as cpu or cuda:1 (a CUDA device where there is one)")


def run(args) -> int:
    """0: all files were read; 1: some could not be read."""
    if args.count < 1:
        raise UserError(f"--count {args.count}: at least one image is to be chosen.")
    student = restore_network(args.run, "student", args.device)
    output = _new_folder(Path(args.output) if args.output else student.path.parent / DEFAULT_FOLDER)
    labeled, unlabeled = _files(student.cfg, args.unlabeled, str(output))
    teacher = restore_network(args.run, "teacher", args.device)
    scorer = LabelScorer(student.network, teacher.network, **_windows(student.cfg))
    bands = Bands.from_config(student.cfg)
    table, failed = score(scorer, unlabeled, bands)
    if not len(table):
        raise UserError(f"none of the {len(unlabeled)} images can be read: {failed[0][1]}")
    chosen = suggest(table, args.count, embed(scorer, labeled, bands))
    items = {item.name: item for item in unlabeled}
    results = Results(
        output, chosen, table, [items[table.names[suggestion.index]] for suggestion in chosen], args.formats
    )
    results.write(_predictor(student, teacher))
    if failed:
        write_text(output / "failed.txt", "".join(f"{file}\t{problem}\n" for file, problem in failed))
    print(f"{len(chosen)} of {len(table)} images are suggested in {output}; look at contact_sheet.png first.")
    if failed:
        print(f"{len(failed)} could not be read; {output / 'failed.txt'} says why.")
    return SOME_FAILED if failed else 0


# ---------------------------------------------------------------------------- what there is


def _new_folder(path: Path) -> Path:
    """Refuse a folder that is not empty: people may have corrected drafts of an earlier call there."""
    try:
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{path} is not empty: name a new folder with --output.")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written to ({error.strerror}): name a folder with --output.") from None
    return path


def _files(cfg: CfgNode, unlabeled: Sequence[str] | None, output: str) -> tuple[list[str], list[Item]]:
    """Labelled images of the run, if their files are there, and unlabelled images other than those."""
    try:
        if cfg.DATASET.NAME:
            register_from_config(cfg)
        labeled = [entry["file_name"] for entry in load_labeled(cfg)]
    except UserError as error:
        if not unlabeled:
            raise
        logger.warning(
            "The run's labelled images are missing, so the suggestion cannot avoid images like them: %s", error
        )
        labeled = []
    if not unlabeled:
        if not cfg.DATASETS.UNLABELED:
            raise UserError("the run has no unlabelled images: name a folder with --unlabeled.")
        unlabeled = [entry["file_name"] for entry in load_unlabeled(cfg)]
    others = describe_unused(left_out(unlabeled, output))
    if others:
        logger.warning("Left out: %s.", others)
    known = {str(Path(file).resolve()) for file in labeled}
    items = [
        item
        for item in list_items(unlabeled, output)
        if not item.is_video and str(Path(item.path).resolve()) not in known
    ]
    if not items:
        raise UserError("there is no unlabelled image: every one is among the run's labelled images, or is a video.")
    return labeled, items


def _windows(cfg: CfgNode) -> dict:
    return {
        "crop_size": cfg.INPUT.CROP_SIZE,
        "short_side": cfg.INPUT.SHORT_SIDE,
        "overlap": cfg.TEST.OVERLAP,
        "window_batch": cfg.TEST.WINDOW_BATCH,
    }


def _predictor(student: Restored, teacher: Restored) -> HierVLPredictor:
    """A predictor with the network that the run evaluated."""
    restored = student if student.cfg.TEST.NETWORK == "student" else teacher
    return HierVLPredictor(
        restored.network, restored.classes, bands=Bands.from_config(restored.cfg), **_windows(restored.cfg)
    )


# ---------------------------------------------------------------------------- scores


def score(
    scorer: LabelScorer, items: Sequence[Item], bands: Bands | None = None
) -> tuple[ScoreTable, list[tuple[str, str]]]:
    """The scores of all readable images, and the unreadable files with the reason."""
    table, failed = ScoreTable(len(items)), []
    for item, source in tqdm(read_ahead(items, bands), total=len(items), unit="image", smoothing=0.1):
        try:
            table.add(item.name, scorer(_whole(item, source)))
        except UserError as error:
            failed.append((item.path, str(error)))
            tqdm.write(f"left out: {error}", file=sys.stderr)
    return table, failed


def _whole(item: Item, source) -> np.ndarray:
    """The pixels of an item of ``read_ahead``."""
    if isinstance(source, UserError):
        raise source
    if not isinstance(source, WholeImage):
        raise UserError(f"{item.path} is so large that it would be read by windows: cut it into tiles.")
    return source.pixels


def embed(scorer: LabelScorer, files: Sequence[str], bands: Bands | None = None) -> np.ndarray | None:
    """Embeddings (L, D) of the readable labelled images; None if there are none."""
    found = []
    for file in files:
        try:
            found.append(scorer.embed(torch.from_numpy(read_image(file, bands)).permute(2, 0, 1)))
        except UserError as error:
            logger.warning("%s", error)
    return np.stack(found) if found else None


# ---------------------------------------------------------------------------- results


class Results(NamedTuple):
    """Writes the chosen images."""

    folder: Path
    chosen: list[Suggestion]
    table: ScoreTable
    items: list[Item]  # in the order of ``chosen``
    formats: Sequence[str] = ()  # formats of drafts, besides COCO's

    def write(self, predictor: HierVLPredictor) -> None:
        """Write lists, copies of the images, drafts of their masks and the contact sheet.

        Raises:
            UserError: the folder cannot be written to, or an image is gone.
        """
        try:
            self._write_lists()
            self._write_drafts(predictor)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written to ({error.strerror or error}).") from error

    def _write_lists(self) -> None:
        names = [item.name for item in self.items]
        write_text(self.folder / LIST_FILE, "".join(f"{name}\n" for name in names))
        table = self.folder / "suggested.csv"
        with (
            whole_file(table) as temporary,
            open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["rank", "name", "uncertainty", "disagreement", "novelty", "file"])
            for rank, (item, values) in enumerate(zip(self.items, self._values()), start=1):
                writer.writerow([rank, item.name, *(f"{value:.4f}" for value in values), item.path])

    def _values(self) -> list[tuple[float, float, float]]:
        """Uncertainty, disagreement and novelty of every image."""
        return [
            (self.table.uncertainty[index].sum(), self.table.disagreement[index].sum(), novelty)
            for index, novelty in self.chosen
        ]

    def _write_drafts(self, predictor: HierVLPredictor) -> None:
        colors = [definition.color for definition in predictor.classes]
        draft = CocoDraft(predictor.classes)
        drafts, drafted = AnnotationDrafts(self.folder, predictor.classes, self.formats), []
        rows = []
        for rank, (item, values) in enumerate(zip(self.items, self._values()), start=1):
            image = read_image(item.path, predictor.bands)
            prediction = predictor(image, instances=False, panoptic=False)
            copy = self.folder / "images" / f"{item.name}{Path(item.path).suffix}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(item.path, copy)
            write_png(self.folder / "masks" / f"{item.name}.png", palette_image(prediction.semantic, colors))
            draft.add(copy.relative_to(self.folder / "images").as_posix(), prediction)
            if drafts.formats:
                regions = regions_of(prediction, predictor.classes)
                drafted.append(DraftImage(item.name, str(copy), prediction.semantic.shape, regions))
                drafts.write_image(drafted[-1])
            if rank <= SHEET_ROWS:
                title = "{}. {}   uncertainty {:.3f}, disagreement {:.3f}, novelty {:.2f}"
                rows.append((title.format(rank, item.name, *values), _panels(image, prediction)))
        draft.write(self.folder / "annotations.json")
        drafts.write_all(drafted)
        write_classes(self.folder / "classes.yaml", predictor.classes)
        names = [definition.name for definition in predictor.classes]
        comparison_sheet(rows, names, colors, str(self.folder / "contact_sheet.png"))


def _panels(image: np.ndarray, prediction: Prediction) -> list[tuple[str, np.ndarray]]:
    """The panels in the size of the sheet, so that many rows fit into memory."""
    factor = min(1.0, PANEL_MAX / max(image.shape[:2]))
    unsure = np.repeat(confidence_bytes(1 - prediction.confidence)[..., None], 3, axis=2)
    panels = (("image", image), ("draft", prediction.semantic), ("unsure where bright", unsure))
    if factor == 1:
        return list(panels)
    size = tuple(max(1, round(length * factor)) for length in image.shape[1::-1])
    smooth, exact = Image.Resampling.BOX, Image.Resampling.NEAREST
    return [
        (name, np.asarray(Image.fromarray(picture).resize(size, exact if picture.ndim == 2 else smooth)))
        for name, picture in panels
    ]

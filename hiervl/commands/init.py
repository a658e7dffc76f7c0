"""``python -m hiervl init FOLDER``: look at a folder of images and write the files that a training needs."""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog

from hiervl.data.folders.formats.opening import MASKS
from hiervl.data.folders.layout import FolderLayout
from hiervl.data.folders.pools import paired_by_number
from hiervl.data.preparation.survey import survey
from hiervl.data.preparation.survey_classes import FoundClasses, find_classes
from hiervl.data.preparation.survey_contents import Survey
from hiervl.engine.run_config import load_config, require_own_dataset
from hiervl.utils.errors import UserError
from hiervl.utils.files import typed_path
from hiervl.utils.program import shell_command

HELP = "look at a folder of images and write my.yaml and classes.yaml for it"

CONFIG, CLASSES = "my.yaml", "classes.yaml"


def add_arguments(parser) -> None:
    parser.add_argument("folder", help="the folder with your images and annotations, in any layout")
    parser.add_argument("--output", default="", help="folder of the two files (the folder itself)")
    parser.add_argument("--mask-suffix", default="", help="what the masks' names end in, where an image has several")
    parser.add_argument("--mask-folder", default="", help="the folder of the masks, where several have them")
    parser.add_argument("--image-folder", default="", help="the folder of the labelled images, where masks fit several")
    parser.add_argument("--mask-variable", default="", help="the map in .mat or .npz masks that hold several")
    parser.add_argument("--name", default="", help="of the dataset (the folder's name)")


def run(args) -> int:
    """0: the files are written, and the images can be read with them; 1: they are written, but something is missing."""
    folder = typed_path(args.folder)
    output = typed_path(args.output) if args.output else folder
    config, classes = output / CONFIG, output / CLASSES
    present = [str(path) for path in (config, classes) if path.exists()]
    if present:
        raise UserError(f"{' and '.join(present)} exist already: move them away, or name another folder by --output.")
    found = survey(folder, args.mask_suffix, args.mask_variable, args.mask_folder, args.image_folder)
    found_classes = find_classes(found)
    print(describe(found, found_classes))
    name = args.name or _name_of(folder)
    _write(classes, classes_text(found_classes))
    _write(config, config_text(found, name, output))
    print(f"\nWritten: {config}, {classes}")
    is_readable = _try(config, found, name)
    print(f"\nNext: write into the `phrases` of {classes} what CLIP should look for, then")
    print(f"  {shell_command('check-data', config)}")
    return 0 if is_readable else 1


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name a folder by --output.") from None


def _try(config: Path, found: Survey, name: str) -> bool:
    """Open the dataset as training does, and print the number of images.

    If images in the labelled folder have no annotation, the config is written again with them as unlabelled images.
    """
    try:
        layout: FolderLayout = require_own_dataset(load_config(str(config)))
        pool, missing = layout.labeled, layout.missing_masks(layout.labeled)
        if pool.samples and missing:
            place = found.places["train"]
            # Beside masks there may be other pictures, too.
            folders = (
                [path.parent for path in missing]
                if place.images == place.masks
                else [layout.source.root / place.images]
            )
            found.unlabeled += dict.fromkeys(os.path.relpath(folder, layout.source.root) for folder in folders)
            _write(config, config_text(found, name, config.parent))
            print(f"  {len(missing)} images in {place.images} have no annotation: they are unlabelled")
            layout = require_own_dataset(load_config(str(config)))
            pool, missing = layout.labeled, layout.missing_masks(layout.labeled)
        unlabeled = sum(1 for _ in layout.unlabeled) if pool.samples else 0
        print(f"  {len(pool.samples)} images with annotations, {unlabeled} unlabelled")
        if pool.by_number:
            print(f"  {paired_by_number('labelled', pool)}")
        for key in ("VAL", "TEST"):
            separate = layout.separate(key)
            if separate is not None:
                print(f"  {len(separate.samples)} images with annotations in DATASET.{key}")
        if pool.samples and not missing:
            return True
        print("  no image belongs to an annotation")
    except UserError as error:
        print(f"  They cannot be used yet: {error}")
    return False


# ---------------------------------------------------------------------------- what is said


def describe(found: Survey, classes: FoundClasses) -> str:
    """A description of what was found."""
    lines = [f"{found.folder}", f"  format       {found.form}"]
    what = "masks" if found.form == MASKS else "annotations"
    lines += [f"  {split:<12} images in {at.images}, {what} in {at.masks}" for split, at in found.places.items()]
    lines += [f"  {split:<12} listed in {path}" for split, path in found.lists.items()]
    for key, pattern in (("IMAGE_SUFFIX", found.image_suffix), ("MASK_SUFFIX", found.mask_suffix)):
        lines += [f"  {key:<12} {pattern}"] if pattern else []
    lines += [f"  unlabelled   images in {place}" for place in found.unlabeled]
    lines.append(f"  classes      {f'named by {classes.source}' if classes.source else 'without names'}")
    for entry in classes.entries:
        kind = " (background)" if entry.get("background") else " (ignored)" if entry.get("ignore") else ""
        count = classes.counts.get(entry["name"], "")
        lines.append(f"    {entry['name']}{kind}: {count or 'what is left'}, colour {entry['color']}")
    return "\n".join([*lines, *(f"  note: {note}." for note in (*found.notes, *classes.notes))])


# ---------------------------------------------------------------------------- what is written


def classes_text(classes: FoundClasses) -> str:
    """A class file with one entry per line and a comment on what was found."""
    lines = [
        "# Written by `python -m hiervl init`. docs/data.md explains every key.",
        "# `phrases` describe the class to CLIP: write what one sees, in plain words, several if you like.",
        "# `background: true` marks the class of all other pixels, `ignore: true` pixels that do not count.",
        "classes:",
    ]
    for entry in classes.entries:
        phrases = [] if entry.get("ignore") else [re.sub(r"[_\-]+", " ", entry["name"]).strip() or entry["name"]]
        written = {"name": entry["name"], **({"phrases": phrases} if phrases else {}), **entry}
        count = classes.counts.get(entry["name"], "")
        lines.append(f"  - {_flow(written)}" + (f"  # {count}" if count else ""))
    return "\n".join(lines) + "\n"


def config_text(found: Survey, name: str, output: Path) -> str:
    """The YAML for the training."""
    labeled: dict[str, Any] = {"IMAGES": found.places["train"].images, "MASKS": found.places["train"].masks}
    if found.lists:
        labeled["LIST"] = found.lists["train"]
    lines = [
        "# Written by `python -m hiervl init`. docs/data.md explains every line.",
        "_BASE_: Base-HierVL.yaml",
        "DATASET:",
        f"  NAME: {_flow(name)}",
    ]
    if output.resolve() != found.folder.resolve():
        lines.append(f"  ROOT: {_flow(str(found.folder.resolve()))}")
    lines.append(f"  LABELED: {_flow(labeled)}")
    lines += _format_lines(found)
    if found.unlabeled:
        lines.append(f"  UNLABELED: {_flow(found.unlabeled)}")
    if "val" in found.places:
        place = found.places["val"]
        lines.append(f"  VAL: {_flow({'IMAGES': place.images, 'MASKS': place.masks})}")
    else:
        lines.append(f"  VAL: {_flow(found.lists['val']) if found.lists else '0.2  # of the labeled images'}")
    if "test" in found.places:
        place = found.places["test"]
        lines.append(f"  TEST: {_flow({'IMAGES': place.images, 'MASKS': place.masks})}")
    return "\n".join([*lines, f"  CLASSES: {CLASSES}", f"OUTPUT_DIR: {_flow(f'output/{name}')}"]) + "\n"


def _format_lines(found: Survey) -> list[str]:
    values = {"FORMAT": found.form if found.form != MASKS or found.has_both else "", "IMAGE_SUFFIX": found.image_suffix}
    values.update(MASK_SUFFIX=found.mask_suffix, MASK_VALUES=found.mask_values, MASK_VARIABLE=found.mask_variable)
    return [f"  {key}: {_flow(value)}" for key, value in values.items() if value]


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.strip().removesuffix("...").strip()


def _name_of(folder: Path) -> str:
    """The folder's name, changed to a valid dataset name that is not registered yet."""
    name = re.sub(r"[^\w .-]+", "_", folder.resolve().name).strip(" .-")
    name = name if re.match(r"\w", name) else "mine"
    return f"my_{name}" if any(known.startswith(f"{name}_") for known in DatasetCatalog.list()) else name

"""Match folders of images with annotations: by names inside annotation files, or by names of mask files."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from hiervl.data.folders import kinds
from hiervl.data.folders.formats.arrays import ARRAY_SUFFIXES
from hiervl.data.folders.formats.image_names import ImageNames, base_name
from hiervl.data.folders.formats.opening import IN_ONE_FILE, MASKS, PER_CLASS, PER_IMAGE
from hiervl.data.folders.formats.source import load_json, reading
from hiervl.data.folders.masks import MaskFolder
from hiervl.data.folders.name_patterns import find_patterns
from hiervl.data.folders.pairing import LABEL_STUDIO_PNG, NamePattern, match_masks
from hiervl.data.loading.readers import open_image
from hiervl.data.preparation.survey_contents import (
    LOOKED_AT,
    NO_CLASSES,
    Contents,
    Place,
    Survey,
    common_start,
    count_values,
    folders_above,
    looks_like_a_mask,
    share_of_masks,
    split_of,
)
from hiervl.data.preparation.survey_masks import keep_one_of_equal_masks
from hiervl.data.preparation.survey_nearness import Fit, best_folder, nearness
from hiervl.utils.errors import UserError

MIN_SHARE = 0.5  # least share of names that must match


# ---------------------------------------------------------------------------- annotation files


def annotated(contents: Contents, result: Survey) -> tuple[dict[str, list[Place]], int]:
    """Places by split, for the annotation format that covers most images, and how many; {} if there is none.

    Raises:
        UserError: there is none but those that fit the images in several folders equally well.
    """
    every_image = {place: stems for place, stems in contents.images.items() if stems}
    # A JSON file among masks does not make photographs of them.
    photographs = {place: stems for place, stems in every_image.items() if share_of_masks(contents.files[place]) < 1}
    best: tuple[int, str, dict[str, list[Place]]] = (0, "", {})
    reached: dict[str, int] = {}
    undecided: list[UserError] = []
    for form, folders in contents.annotations.items():
        places: dict[str, list[Place]] = {}
        count = 0
        for folder, files in folders.items():
            for path in files if form in IN_ONE_FILE else [result.folder / folder]:
                relative = path.relative_to(result.folder).as_posix()
                try:
                    written = _written_names(form, path)
                except UserError as error:
                    result.notes.append(str(error).rstrip("."))
                    continue
                try:
                    images, hits = _images_of(written, relative, folder, photographs, contents)
                    if not hits:
                        images, hits = _images_of(written, relative, folder, every_image, contents)
                except UserError as error:
                    undecided.append(error)
                    continue
                if hits and contents.may_be_labeled(images):
                    count += hits
                    split = split_of(f"{relative}/{images}")
                    places.setdefault(split, []).append(Place(images or ".", relative))
        reached[form] = count
        best = max(best, (count, form, places), key=lambda entry: entry[0])
    count, form, places = best
    if undecided and not count:
        raise undecided[0]
    result.notes += [str(error).rstrip(".") for error in undecided]
    if count and LABEL_STUDIO_PNG.fullmatch(_some_mask_stem(contents)):
        return {}, 0  # the masks lie beside the export that names their images
    for other, hits in reached.items():
        if other != form and hits:
            result.notes.append(
                f"annotations of the format {other} for {hits} images were found, too, and are not used"
            )
    result.form = form or result.form
    return places, count


def _some_mask_stem(contents: Contents) -> str:
    stems = [stem for stems in contents.images.values() for stem in stems[:1]]
    return next((stem for stem in stems if LABEL_STUDIO_PNG.fullmatch(stem)), "")


def _images_of(
    written: Sequence[str], annotations: str, folder: str, photographs: dict[str, list[str]], contents: Contents
) -> tuple[str, int]:
    """The folder of images that fits the annotations best, and how many of its images they name.

    Args:
        written: names of images.
        annotations, folder: the file, or the folder of files, and the folder that it lies in or is.
    """
    fits: dict[str, Fit] = {}
    for place in _with_parents(photographs):
        names = ImageNames(_below(photographs, place))
        found = {name: stem for name in written if (stem := names.find(name) or names.by_number(name)) is not None}
        if found:
            in_common = [
                common_start(f"{place}/{stem}".split("/")[::-1], names.clean(name).split("/")[::-1])
                for name, stem in found.items()
            ]
            is_direct = _are_mostly_direct(found.values())
            in_file = sum(in_common) / len(found)
            near = nearness(place, annotations, contents.overlays, in_file, is_beside=is_direct and place == folder)
            fits[place] = Fit(len(set(found.values())), is_direct, near)
    if not fits:
        return "", 0
    best = best_folder(fits, annotations, contents)
    return best, fits[best].number


def _are_mostly_direct(stems: Collection[str]) -> bool:
    """Whether most of the images are in the folder itself, and not below it."""
    return 2 * sum("/" not in stem for stem in stems) > len(stems)


def _written_names(form: str, path: Path) -> list[str]:
    """The names of images in the annotations."""
    if form == "coco":
        return [str(image["file_name"]) for image in read_coco(path)["images"]]
    if form in IN_ONE_FILE:
        return list(IN_ONE_FILE[form](path, NO_CLASSES, {}).keys)
    return list(PER_IMAGE[form](path, NO_CLASSES, {}).keys)


def read_coco(path: Path) -> dict[str, Any]:
    """
    Raises:
        UserError: it cannot be read, or has no images and annotations.
    """
    with reading(str(path), kinds.COCO.name):
        content = load_json(path)
        return {key: list(content[key]) for key in ("images", "annotations", "categories")}


def _with_parents(folders: Collection[str]) -> list[str]:
    """The folders, and those above them, upper ones first."""
    return sorted({""}.union(folders, *map(folders_above, folders)), key=lambda folder: (len(folder), folder))


# ---------------------------------------------------------------------------- mask files


def masked(contents: Contents, result: Survey) -> dict[str, list[Place]]:
    """Places by split, for folders of masks whose names match photographs.

    Raises:
        UserError: masks fit the images in several folders equally well, or an image has several masks.
    """
    is_mask = {place: share_of_masks(files) for place, files in contents.files.items()}
    photographs = {place: contents.images[place] for place, share in is_mask.items() if share < 1}
    pairs: list[tuple[str, str]] = []  # folder of images, folder of masks
    patterns: Counter = Counter()
    per_class = False
    full = [place for place, share in is_mask.items() if share == 1]
    of_images = _named_as_images(full, photographs, contents)
    pairs += sorted(set(of_images.values()))
    per_class |= bool(pairs)
    for place, share in is_mask.items():
        if share == 0 or place in of_images:
            continue
        if share < 1:
            pattern = _pattern_within(contents.files[place])
            if pattern is not None and not contents.may_be_labeled(place):
                continue
            if pattern is not None:
                pairs.append((place, place))
                per_class |= pattern == PER_CLASS
                patterns[pattern if pattern != PER_CLASS else ("", "")] += 1
                continue
        # Other pictures may lie among the masks, such as overlays.
        masks = contents.images[place] if share == 1 else [
            path.stem for path in contents.files[place] if looks_like_a_mask(path)
        ]  # fmt: skip
        if photographs and any(map(LABEL_STUDIO_PNG.fullmatch, masks)):
            named = {
                other: Fit(len(stems), True, nearness(other, place, contents.overlays))
                for other, stems in photographs.items()
            }
            pairs.append((best_folder(named, place, contents), place))
            per_class = True
            continue
        others = _and_above({other: stems for other, stems in photographs.items() if other != place})
        match = _best_photographs(place, masks, others, contents, result.mask_variable)
        if match is not None and contents.may_be_labeled(match[0]):
            images, pattern, is_per_class = match
            pairs.append((images, place))
            per_class |= is_per_class
            patterns[pattern] += 1
    if not pairs:
        return {}
    pairs, notes = keep_one_of_equal_masks(contents, pairs, result.mask_variable)
    result.notes += notes
    per_class |= _several_folders(pairs, contents)
    if per_class:
        masked = [place for _, place in pairs if place in contents.files] + list(of_images)
        _require_two_values([path for place in masked for path in contents.files[place][:LOOKED_AT]])
        result.form = PER_CLASS
    elif patterns:
        result.image_suffix, result.mask_suffix = patterns.most_common(1)[0][0]
    places: dict[str, list[Place]] = {}
    for images, image_place in pairs:
        places.setdefault(split_of(f"{images}/{image_place}"), []).append(Place(images or ".", image_place or "."))
    return places


def count_masked(contents: Contents, result: Survey, places: dict[str, list[Place]]) -> int:
    """The number of images with masks."""
    every_place = list(itertools.chain.from_iterable(places.values()))
    if result.form == PER_CLASS:
        return sum(
            min(len(_below(contents.images, folder)) for folder in (place.images, place.masks)) for place in every_place
        )
    return len(pairs_in(contents, result, every_place))


def pairs_in(contents: Contents, result: Survey, places: Iterable[Place]) -> dict[str, str]:
    """Masks by image, as paths below the surveyed folder without suffix."""
    names = tuple(NamePattern.parse(text, "") for text in (result.image_suffix, result.mask_suffix))
    pairs: dict[str, str] = {}
    for place in places:
        images, masks = (_below(contents.images, folder) for folder in (place.images, place.masks))
        matched = match_masks(images, masks, *names).masks
        pairs |= {_path(place.images, image): _path(place.masks, mask) for image, mask in matched.items()}
    return pairs


def _path(folder: str, stem: str) -> str:
    return stem if folder in ("", ".") else f"{folder}/{stem}"


def labeled_stems(contents: Contents, result: Survey) -> set[str]:
    """Names of the images with masks; of all images where there are annotations of another kind."""
    if result.form != MASKS:
        return {stem for stems in contents.images.values() for stem in stems}
    return set(map(base_name, pairs_in(contents, result, [result.places["train"]])))


def _below(folders: dict[str, list[str]], place: str) -> list[str]:
    """The stems in a folder and its subfolders, by their relative path."""
    above = "" if place in ("", ".") else f"{place}/"
    return [
        f"{folder}/{stem}".removeprefix(above).lstrip("/")
        for folder, stems in folders.items() if f"{folder}/".startswith(above)
        for stem in stems
    ]  # fmt: skip


def _and_above(photographs: dict[str, list[str]]) -> dict[str, list[str]]:
    """The photographs of each folder and of those below it, for the folders and those above several of them, whose
    photographs may have their masks in one folder."""
    return {place: _below(photographs, place) for place in _with_parents(photographs)}


def _named_as_images(
    places: Sequence[str], photographs: dict[str, list[str]], contents: Contents
) -> dict[str, tuple[str, str]]:
    """Folders of masks that bear the names of images, each with the images' folder and the folder above: there is one
    mask per class in each.

    Raises:
        UserError: they bear the names of images in several folders.
    """
    by_above: dict[str, dict[str, dict[str, str]]] = {}  # folder above → folder of images → folder of masks → image
    for folder, stems in _and_above(photographs).items():
        names = ImageNames(stems)
        bases = set(map(base_name, stems))
        for place in places:
            above, _, name = place.rpartition("/")
            image = names.find(name) or names.by_number(name)
            # Where the masks themselves bear names of images, the folder's name is a number of a scene.
            if place != folder and image is not None and bases.isdisjoint(contents.images[place]):
                by_above.setdefault(above, {}).setdefault(folder, {})[place] = image
    found: dict[str, tuple[str, str]] = {}
    for above, by_folder in by_above.items():
        fits = {
            folder: Fit(len(own), _are_mostly_direct(own.values()), nearness(folder, above, contents.overlays))
            for folder, own in by_folder.items()
        }
        best = best_folder(fits, above, contents)
        if contents.may_be_labeled(best):
            found |= {place: (best, above) for place in by_folder[best]}
    return found if len(found) > 1 else {}


def _require_two_values(masks: Sequence[Path]) -> None:
    """Raise a UserError if an image has several masks and they do not show one class each."""
    for path in masks:
        if path.suffix.lower() not in ARRAY_SUFFIXES and looks_like_a_mask(path) and count_values(path) > 2:
            raise UserError(
                f"images have several masks, and not each shows one class ({path} holds more than two values): say by "
                "--mask-suffix what the names of those that count end in, such as _labelIds, or by --mask-folder where "
                "they lie."
            )


def _several_folders(pairs: Sequence[tuple[str, str]], contents: Contents) -> bool:
    """Whether several folders of masks have the same images. Folders of training and of validation masks may share the
    folder of their images."""
    for images, of_same_images in itertools.groupby(sorted(pairs), key=lambda pair: pair[0]):
        folders = [masks for _, masks in of_same_images]
        splits = {split_of(f"{images}/{folder}") for folder in folders}
        names = Counter(stem for folder in folders for stem in contents.images.get(folder, ()))
        if len(folders) > 1 and (len(splits) < len(folders) or max(names.values(), default=0) > 1):
            return True
    return False


def _pattern_within(files: Sequence[Path]) -> tuple[str, str] | str | None:
    """The name pattern of masks among their images; "per_class": an image has several."""
    by_look = [path.stem for path in files if looks_like_a_mask(path)]
    images = [path.stem for path in files if path.stem not in set(by_look)][:LOOKED_AT]
    by_name = [path.stem for path in files if any(stem in path.stem for stem in images) and path.stem not in images]
    found = find_patterns(images, by_name)
    if found is None:  # names of both have something in addition; else the images may be overlays of the masks
        found = find_patterns(images, by_look)
        if found is not None and not all(map(str, (found.image, *found.masks))):
            return None
    if found is None:
        return None
    return PER_CLASS if len(found.masks) > 1 else (str(found.image), str(found.masks[0]))


def _best_photographs(
    place: str, masks: Sequence[str], photographs: dict[str, list[str]], contents: Contents, variable: str
) -> tuple[str, tuple[str, str], bool] | None:
    """The folder of photographs for a folder of masks, the name patterns, and whether an image has several masks."""
    matches: dict[str, dict[str, str]] = {}
    patterns: dict[str, tuple[tuple[str, str], bool]] = {}
    for other, stems in photographs.items():
        matched = match_masks(stems, masks).masks
        if matched and len(matched) >= MIN_SHARE * min(len(masks), len(stems)):
            matches[other], patterns[other] = matched, (("", ""), False)
    lost: dict[str, int] = {}
    for other, stems in photographs.items() if not matches else ():
        names = find_patterns(stems, masks)
        if names is not None:
            pattern = names.masks[0].without_folder
            matches[other] = match_masks(stems, masks, names.image, pattern).masks
            patterns[other] = (str(names.image), str(pattern)), len(names.masks) > 1
            lost[other] = len(names.image.head + names.image.tail)
    if not matches:
        return None
    fits = {
        other: Fit(
            min(len(matched), len(masks)),
            _are_mostly_direct(matched),
            nearness(other, place, contents.overlays),
            lost.get(other, 0),
        )
        for other, matched in matches.items()
    }
    best = best_folder(
        fits,
        place,
        contents,
        lambda other: _have_one_size(contents, other, place, matches[other], variable),
    )
    return best, *patterns[best]


def _have_one_size(contents: Contents, images: str, masks: str, matched: dict[str, str], variable: str) -> bool:
    """Whether some images have the sizes of their masks, perhaps turned."""
    paths = {_path(folder, path.stem): path for folder, files in contents.files.items() for path in files}
    try:
        of_masks = MaskFolder(contents.files[masks][0].parent, NO_CLASSES, variable=variable)
        for image, mask in list(matched.items())[:LOOKED_AT]:
            size = open_image(str(paths[_path(images, image)])).size
            if sorted(size) != sorted(of_masks.raw(mask).codes.shape):
                return False
    except UserError:
        return False
    return True

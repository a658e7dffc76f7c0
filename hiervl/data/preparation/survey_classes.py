"""Find the classes of a dataset without a class file: named by its lists and annotations, or by the masks' values."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hiervl.data.classes.class_lists import BACKGROUND_ENTRY, BACKGROUNDS, IGNORE_NAME, read_class_names
from hiervl.data.classes.class_maps import IGNORED, Color
from hiervl.data.classes.definitions import BACKGROUND_COLOR, distinct_color
from hiervl.data.folders.facts import MaskFacts
from hiervl.data.folders.files import MASK_SUFFIXES, find_files, list_files
from hiervl.data.folders.formats.class_layers import MAPS, UNCOVERED
from hiervl.data.folders.formats.coco import id_text
from hiervl.data.folders.formats.cvat import read_cvat
from hiervl.data.folders.formats.image_names import ImageNames
from hiervl.data.folders.formats.opening import IN_ONE_FILE, MASKS, PER_CLASS, PER_IMAGE, files_in
from hiervl.data.folders.formats.per_class import by_names_and_folders, read_name
from hiervl.data.folders.formats.source import AnnotationSource, reading
from hiervl.data.folders.formats.via import attribute_values, read_regions
from hiervl.data.folders.masks import COLOR, INDEX, MaskFolder, decode_color, encode_color
from hiervl.data.folders.pairing import LABEL_STUDIO_PNG, NamePattern, match_masks
from hiervl.data.preparation.survey_contents import NO_CLASSES, Place, Survey
from hiervl.data.preparation.survey_places import read_coco
from hiervl.utils.errors import UserError
from hiervl.utils.text import listed

MAX_READ = 200  # how many masks or annotations are read
MANY_CLASSES = 64
MAX_NAMED = 6  # values in a message


@dataclass
class FoundClasses:
    """Entries for a class file, and how often each was found.

    Attributes:
        entries: with the keys of a class file.
        counts: entry's name → text such as "12 objects in 6 images".
        source: where the names come from; "": there are none, the entries are named by values.
        notes: what the user should check.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, str] = field(default_factory=dict)
    source: str = ""
    notes: list[str] = field(default_factory=list)


def find_classes(result: Survey) -> FoundClasses:
    """
    Raises:
        UserError: the annotations or the list of classes cannot be read.
    """
    if result.form == MASKS:
        return _classes_in_masks(result)
    found = FoundClasses(source="the annotations" if result.form != PER_CLASS else "the masks' names")
    objects, images = _count_class_masks(result) if result.form == PER_CLASS else _count_annotations(result, found)
    listed = _listed(result, objects, found)
    for entry in listed:
        entry.pop("label", None)  # names count here; numbers of objects would be those of a background in front
    known = {entry["name"] for entry in listed}
    colors = _cvat_colors(result) if result.form == "cvat" else {}
    missing = [{"name": name, **colors.get(name, {})} for name, _ in objects.most_common() if name not in known]
    found.entries = [*listed, *(_marked(entry) for entry in missing)]
    if not any(entry.get("background") for entry in found.entries):
        found.entries.insert(0, dict(BACKGROUND_ENTRY))
        found.notes.append("pixels of no object are 'background'; if they are unlabelled instead, delete that entry")
    for name in known | set(objects):
        if name in BACKGROUNDS and not objects[name]:
            continue
        what = "masks" if result.form == PER_CLASS else "objects"
        found.counts[name] = f"{objects[name]} {what} in {images[name]} images"
    return _finished(found)


def _finished(found: FoundClasses) -> FoundClasses:
    """Give a colour to every entry without one."""
    for index, entry in enumerate(found.entries):
        if "color" not in entry:
            entry["color"] = list(BACKGROUND_COLOR if entry.get("background") else distinct_color(index))
    return found


def _marked(entry: dict[str, Any]) -> dict[str, Any]:
    if entry["name"] == IGNORE_NAME:
        return {**entry, "ignore": True}
    return {**entry, "background": True} if entry["name"].casefold() in BACKGROUNDS else entry


def _listed(result: Survey, objects: Counter, found: FoundClasses) -> list[dict[str, Any]]:
    """The entries of the list of classes that names most of the found objects."""
    best: list[dict[str, Any]] = []
    for path in result.class_lists:
        try:
            entries = read_class_names(path)
        except UserError as error:
            found.notes.append(str(error).rstrip("."))
            continue
        names = {entry["name"] for entry in entries}
        if not best or len(names & set(objects)) > len({entry["name"] for entry in best} & set(objects)):
            best, found.source = entries, path.relative_to(result.folder).as_posix()
    return best


# ---------------------------------------------------------------------------- annotations


def _count_annotations(result: Survey, found: FoundClasses) -> tuple[Counter, Counter]:
    """Count the objects of each name, and the images with it."""
    objects: Counter = Counter()
    images: Counter = Counter()
    for place, path in _annotation_files(result):
        if result.form in ("coco", "via"):
            with reading(str(path), "COCO JSON" if result.form == "coco" else "VIA JSON"):
                names = _coco_names(path) if result.form == "coco" else _via_names(path, found)
        else:
            files = find_files(result.path(place.images))
            source = {**IN_ONE_FILE, **PER_IMAGE}[result.form](path, NO_CLASSES, files)
            pairs = match_masks(list(files), list(source.keys)).masks
            source.add_images({key: files[stem] for stem, key in pairs.items()})
            keys = list(pairs.values())
            sample = keys[:: max(1, len(keys) // MAX_READ)]
            names = _names_in(source, sample, found)
            if len(sample) < len(keys):
                found.notes.append(f"counts are of {len(sample)} of {len(keys)} annotations in {place.masks}")
        for own in names:
            objects.update(own)
            images.update(set(own))
    return objects, images


def _annotation_files(result: Survey) -> Iterator[tuple[Place, Path]]:
    """The file or the folder of each part; of formats with one file for all images the files in a folder."""
    for place in result.places.values():
        path = result.path(place.masks)
        several = files_in(path, result.form) if result.form in IN_ONE_FILE and path.is_dir() else [path]
        yield from ((place, file) for file in several)


def _names_in(source: AnnotationSource, keys: Sequence[str], found: FoundClasses) -> list[list[str]]:
    """The names of the objects in each annotation. Those that cannot be read are noted.

    Raises:
        UserError: none can be read.
    """
    names, errors = [], []
    for key in keys:
        try:
            names.append([shape.name for shape in source.read(key).shapes])
        except UserError as error:
            errors.append(error)
    if errors and not names:
        raise errors[0]
    found.notes += _unreadable(errors, "annotations")
    return names


def _unreadable(errors: Sequence[UserError], what: str) -> list[str]:
    """A note on files that cannot be read, where others can."""
    others = f"; nor can {len(errors) - 1} more {what} be read" if errors[1:] else ""
    return [str(errors[0]).rstrip(".") + others] if errors else []


def _coco_names(path: Path) -> list[list[str]]:
    content = read_coco(path)
    categories = {id_text(category["id"]): str(category["name"]) for category in content["categories"]}
    by_image: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        name = categories.get(id_text(annotation.get("category_id")), "(no category)")
        by_image.setdefault(id_text(annotation.get("image_id")), []).append(name)
    return list(by_image.values())


def _via_names(path: Path, found: FoundClasses) -> list[list[str]]:
    """Names by the attribute with the fewest values. If there are several attributes, a note names it."""
    images = [regions for _, regions in read_regions(path)]
    values = attribute_values(images)
    if not values:
        return []
    attribute = min(values, key=lambda name: (len(values[name]) < 2, len(values[name])))
    if len(values) > 1:
        others = ", ".join(f"'{name}'" for name in values if name != attribute)
        found.notes.append(f"the classes are the values of the region attribute '{attribute}', not of {others}")
    return [list(attribute_values([regions]).get(attribute, Counter()).elements()) for regions in images]


def _cvat_colors(result: Survey) -> dict[str, dict[str, list[int]]]:
    """Colours of the labels in CVAT."""
    colors = {}
    for _, path in _annotation_files(result):
        for name, text in read_cvat(path).labels:
            if len(text) == 7 and text.startswith("#"):
                colors[name] = {"color": [int(text[start : start + 2], 16) for start in (1, 3, 5)]}
    values = Counter(tuple(entry["color"]) for entry in colors.values())
    return {name: entry for name, entry in colors.items() if values[tuple(entry["color"])] == 1}


def _count_class_masks(result: Survey) -> tuple[Counter, Counter]:
    """Count the masks of each class, by their names or their folders."""
    objects: Counter = Counter()
    images: Counter = Counter()
    for place in result.places.values():
        masks = find_files(result.path(place.masks), MASK_SUFFIXES)
        stems = set(find_files(result.path(place.images)))
        tags = [(match["task"], match["tag"]) for stem in masks if (match := LABEL_STUDIO_PNG.fullmatch(stem))]
        if place.masks == place.images:
            names = ImageNames(stems)
            masks = {stem: path for stem, path in masks.items() if any(read_name(stem, names))}
            stems -= set(masks)
        items = by_names_and_folders(masks, stems, NO_CLASSES) or []
        parts = tags or [(item.image, item.part.strip("_-. /")) for item in items]
        objects.update(part for _, part in parts)
        images.update(part for _, part in set(parts))
    return objects, images


# ---------------------------------------------------------------------------- mask files


def _classes_in_masks(result: Survey) -> FoundClasses:
    """The classes by the values or colours in masks, with names from a list of classes if there is one."""
    found = FoundClasses()
    values: Counter = Counter()  # number of masks with each value
    pixels: Counter = Counter()
    palette: dict[int, Color] = {}
    maps, bare = 0, 0
    errors: list[UserError] = []
    masks = _read_masks(result, errors)
    if errors and not masks:
        how = " (init takes it as --mask-variable)" if "MASK_VARIABLE" in str(errors[0]) else ""
        raise UserError(f"{str(errors[0]).rstrip('.')}{how}.")
    form = _common_form([mask.form for mask in masks], result, found)
    masks = [mask for mask in masks if mask.form == form]
    read = len(masks)
    for raw in masks:
        maps, bare = max(maps, raw.remarks.get(MAPS, 0)), bare + raw.remarks.get(UNCOVERED, 0)
        palette.update(raw.palette or {})
        values.update(raw.code_counts.keys())
        pixels.update(raw.code_counts)
    found.notes += _unreadable(errors, "masks")
    shown: dict[Any, int]  # by colour or by number, as in the masks
    shares: Counter[Any] = pixels
    value: Any
    if form == COLOR:
        shown = {decode_color(code): count for code, count in values.items()}
        shares = Counter({decode_color(code): count for code, count in pixels.items()})
        entries = _named(result, found, {"color": list(shown)})
    else:
        shown = {**dict.fromkeys(range(maps + (bare > 0) if maps else 0), 0), **values}
        entries = _named(result, found, {"label": list(shown)})
    key = "color" if form == COLOR else "label"
    places = [entry.get("label", place) for place, entry in enumerate(entries) if not entry.get("ignore")]
    by_place = key == "label" and bool(places) and places == list(range(len(places)))
    entries = [{**entry, "label": entry.get("label", place)} for place, entry in enumerate(entries)]
    known = {tuple(entry[key]) if key == "color" else entry[key] for entry in entries if key in entry}
    unsaid = _unsaid_value(entries, known, shown) if key == "label" else None
    if unsaid is not None:
        found.notes.append(
            f"the masks hold only 0 and {unsaid}, but {found.source} does not say which of its classes each is: "
            "check-data shows both readings"
        )
    unnamed = [
        value for value in sorted(shown)
        if value not in known and value != unsaid and not (key == "label" and value == IGNORED and len(shown) > 2)
    ]  # fmt: skip
    is_unclear = by_place and bool(unnamed)
    if is_unclear:  # whether the list lacks a class in front or at its end: a guess may give every class a wrong name
        found.notes.append(
            f"the masks hold the values {listed(sorted(shown), MAX_NAMED)}, which are not the places 0 to "
            f"{len(places) - 1} of {found.source}: it is not known which value is which class; check-data shows the "
            "possible readings"
        )
        entries = [
            entry if entry.get("ignore") else {name: said for name, said in entry.items() if name != "label"}
            for entry in entries
        ]
        found.counts = {entry["name"]: "its value is not known" for entry in entries}
    else:
        for value in unnamed:
            name = f"colour {' '.join(map(str, value))}" if key == "color" else f"value {value}"
            entry = {"name": name, key: list(value) if key == "color" else value}
            entry |= {"background": True} if bare and value == 0 else {}
            if key == "label" and value in palette and len(set(palette.values())) > 2:
                entry["color"] = list(palette[value])
            entries.append(entry)
    total = max(shares.total(), 1)
    for entry in entries if not is_unclear else ():
        value = tuple(entry[key]) if key == "color" and key in entry else entry.get(key)
        share = shares[value] / total
        found.counts[entry["name"]] = f"{share:.1%} of the pixels, in {shown.get(value, 0)} of {read} masks"
    if IGNORED in shown and key == "label" and len(shown) > 2:
        found.notes.append(f"255 is in {shown[IGNORED]} of {read} masks and does not count")
    if len(entries) > MANY_CLASSES:
        found.notes.append(f"{len(entries)} values are more than a list of classes: are these masks, not blurred?")
    if not found.source:
        found.notes.append("the masks do not say what their values mean: write the names into the class file")
    found.entries = entries
    return _finished(found)


def _read_masks(result: Survey, errors: list[UserError]) -> list[MaskFacts]:
    """Facts about the masks that can be read. Grey RGB files hold colours if others do, else numbers."""
    found: list[MaskFacts] = []
    gray: list[int] = []  # places in ``found``
    for place in result.places.values():
        source = MaskFolder(result.path(place.masks), NO_CLASSES, variable=result.mask_variable)
        keys = _keys_of_masks(result, place, source)
        for key in keys[:: max(1, len(keys) // MAX_READ)]:
            try:
                found.append(MaskFacts.of(source.raw(key)))
            except UserError as error:
                errors.append(error)
                continue
            if found[-1].form == INDEX and source.is_rgb(key):
                gray.append(len(found) - 1)
    has_colors = any(facts.form == COLOR for facts in found)
    for place_of_gray in gray if has_colors else ():
        facts = found[place_of_gray]
        counts = {encode_color((value, value, value)): count for value, count in facts.code_counts.items()}
        found[place_of_gray] = replace(facts, form=COLOR, code_counts=counts)
    if gray and not has_colors:
        result.mask_values = INDEX
    return found


def _common_form(forms: Sequence[str], result: Survey, found: FoundClasses) -> str:
    """The form of most masks: numbers or colours. Masks of the other form are noted."""
    counts = Counter(forms).most_common()
    if len(counts) > 1:
        what = {INDEX: "numbers", COLOR: "colours"}
        (form, count), (other, others) = counts[:2]
        found.notes.append(
            f"{count} masks hold {what[form]} and {others} hold {what[other]}, as if two exports were mixed: the "
            f"classes below are those of the {what[form]}; export all masks in the same way"
        )
    return counts[0][0] if counts else ""


def _unsaid_value(entries: Sequence[Mapping[str, Any]], known: Collection[Any], shown: Collection[Any]) -> int | None:
    """The value beside 0 in masks of two values, if a list names the two classes but not this value."""
    others = [value for value in shown if value != 0]
    objects = [entry for entry in entries if not entry.get("ignore")]
    is_named = len(objects) == 2 or (len(objects) == 1 and not objects[0].get("background"))
    return others[0] if is_named and 0 in shown and len(others) == 1 and others[0] not in known else None


def _keys_of_masks(result: Survey, place: Place, source: MaskFolder) -> list[str]:
    """The masks that belong to images; other pictures may lie among them."""
    names = NamePattern.parse(result.image_suffix, ""), NamePattern.parse(result.mask_suffix, "")
    folder = result.path(place.images)
    stems = [Path(path).relative_to(folder).with_suffix("").as_posix() for path in list_files(folder)]
    return list(match_masks(stems, list(source.keys), *names).masks.values()) or list(source.keys)


def _named(result: Survey, found: FoundClasses, shown: Mapping[str, Sequence]) -> list[dict[str, Any]]:
    """Entries of a list of classes beside the masks, in its order."""
    for path in result.class_lists:
        try:
            entries = read_class_names(path)
        except UserError as error:
            found.notes.append(str(error).rstrip("."))
            continue
        if "color" in shown and not all("color" in entry for entry in entries):
            continue
        found.source = path.relative_to(result.folder).as_posix()
        return entries
    return []

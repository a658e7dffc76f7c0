"""Config files as layers: a file, below it the file of its ``_BASE_``, and so on."""

import difflib
from pathlib import Path
from typing import Any, NamedTuple

from hiervl.config.keys import leaves
from hiervl.config.older import with_older_meaning
from hiervl.config.safe_yaml import load_yaml
from hiervl.utils.errors import UserError
from hiervl.utils.files import read_text, typed_path
from hiervl.utils.program import shell_command

# An installed HierVL has its configs inside the package; a checkout has them beside it.
_PLACES = [Path(__file__).resolve().parents[above] / "configs" for above in (1, 2)]
SHIPPED = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
SHIPPED_BASE = SHIPPED / "Base-HierVL.yaml"
BASE_KEY = "_BASE_"
PAIR_KEYS = {"IMAGES", "MASKS"}


class Layer(NamedTuple):
    """The settings of one file, without its base."""

    path: Path
    settings: dict[str, Any]


def find_config(name: str) -> Path:
    """The config file of that name: a path, or a config shipped with HierVL, with or without ``configs/`` before it.

    Raises:
        UserError: there is no such file; the message names the most similar one.
    """
    path = typed_path(name)
    shipped = SHIPPED / Path(name.removeprefix("configs/"))
    for candidate in (path, shipped):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        written = path / "my.yaml"
        way = f"did you mean {written}?" if written.is_file() else f"`{shell_command('init', path)}` writes one for it."
        raise UserError(f"{path} is a folder, not a config file: {way}")
    for folder in (path.parent, shipped.parent):
        names = [entry.name for entry in folder.glob("*.yaml")] if folder.is_dir() else []
        others = [name for name in names if folder / name not in (path, shipped)]  # which are no files: broken links
        matches = difflib.get_close_matches(path.name, others, n=1)
        if matches:
            raise UserError(f"there is no config file '{name}'; did you mean {folder / matches[0]}?")
    raise UserError(f"there is no config file '{name}', neither here nor among those shipped with HierVL ({SHIPPED}).")


def read_layers(path: Path) -> list[Layer]:
    """The file and its bases, the lowest first.

    A base is searched beside the file that names it, then among the shipped configs. In the section ``DATASET``, ROOT
    and CLASSES become absolute, and ``{IMAGES: a, MASKS: b}`` of VAL and TEST becomes [a, b].

    Raises:
        UserError: a file is missing, is not YAML or not a mapping, or a base is its own base.
    """
    layers: list[Layer] = []
    while True:
        settings = _read(path)
        base = settings.pop(BASE_KEY, None)
        layers.insert(0, Layer(path, _with_dataset_section(settings, path)))
        if base is None:
            return layers
        base_path = _find_base(base, path)
        if any(base_path.samefile(layer.path) for layer in layers):
            raise UserError(f"{path}: its {BASE_KEY} {base} leads back to itself.")
        path = base_path


def written_keys(layers: list[Layer]) -> list[str]:
    """Dotted keys that the layers set, without the shipped base: what the user chose."""
    keys: list[str] = []
    for layer in layers:
        if layer.path.resolve() != SHIPPED_BASE:
            keys.extend(leaves(layer.settings))
    return keys


def _read(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}).") from None
    settings = with_older_meaning(load_yaml(text, str(path)))
    if not isinstance(settings, dict):
        raise UserError(f"{path}: it is empty, or does not consist of 'KEY: value' lines.")
    return settings


def _find_base(base: Any, path: Path) -> Path:
    if not isinstance(base, str):
        raise UserError(f"{path}: {BASE_KEY} is the name of one file, not {base!r}.")
    candidates = [path.parent / Path(base).expanduser(), SHIPPED / base]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise UserError(f"{path}: its {BASE_KEY} {base} is neither beside it nor in {SHIPPED}.")
    return found


def _with_dataset_section(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    section = settings.get("DATASET")
    if not isinstance(section, dict):
        return settings
    section = dict(section)
    for key in ("ROOT", "CLASSES"):
        if isinstance(section.get(key), str) and section[key]:
            section[key] = str((path.parent / Path(section[key]).expanduser()).resolve())
    for key in ("VAL", "TEST"):
        part = section.get(key)
        if isinstance(part, dict):
            section[key] = folders_of_part(part, f"DATASET.{key}", str(path))
    return {**settings, "DATASET": section}


def folders_of_part(part: dict[str, Any], key: str, source: str) -> list[str]:
    """``{IMAGES: a, MASKS: b}`` as [a, b].

    Raises:
        UserError: it has other keys.
    """
    if set(part) != PAIR_KEYS:
        raise UserError(f"{source}: {key} needs IMAGES and MASKS, not {', '.join(map(str, part))}.")
    return [part["IMAGES"], part["MASKS"]]

"""Config keys that HierVL no longer has. Configs of older runs can still be read; writing such a key gives an error."""

from typing import Any, NamedTuple

from hiervl.config.keys import get_value, leaves
from hiervl.utils.errors import UserError


class Retired(NamedTuple):
    """A key that no longer exists. With the value ``neutral`` it changed nothing."""

    neutral: Any
    instead: str


_RECOMPUTE = "list the parts in MODEL.RECOMPUTE, such as ['encoder', 'pixel_decoder', 'query_decoder', 'losses']"
_NOTHING = "it had no use; take it out"
RETIRED = {
    "MODEL.CLIP.RECOMPUTE": Retired(False, _RECOMPUTE),
    "MODEL.PIXEL_DECODER.RECOMPUTE": Retired(False, _RECOMPUTE),
    "MODEL.QUERY_DECODER.RECOMPUTE": Retired(False, _RECOMPUTE),
    "LOSS.RECOMPUTE": Retired(False, _RECOMPUTE),
    "MODEL.PIXEL_DECODER.DROPOUT": Retired(0.0, _NOTHING),
    "MODEL.QUERY_DECODER.DROPOUT": Retired(0.0, _NOTHING),
    "MODEL.HSQG.IMAGE_EMBEDDING": Retired("trained", "the relevance is that of the trained encoder; take it out"),
    "SEMI.SHARPEN": Retired(1.0, _NOTHING),
    "SOLVER.PRESET_KEEPS": Retired([], "keys that you write are always kept; take it out"),
}


def check_not_retired(key: str, source: str) -> None:
    """Raise a :class:`UserError` if a key no longer exists."""
    if key in RETIRED:
        raise UserError(f"{source}: there is no config key '{key}' any more: {RETIRED[key].instead}.")


def without_retired(settings: dict[str, Any], source: str, saved: bool = False) -> dict[str, Any]:
    """The settings without retired keys.

    Args:
        settings: nested, as in a YAML file.
        saved: they come from a finished run, whose training is not repeated; then no value is refused.

    Raises:
        UserError: a retired key has a value that would change something.
    """
    gone = [key for key in leaves(settings) if key in RETIRED]
    for key in gone:
        if not saved and get_value(settings, key) != RETIRED[key].neutral:
            check_not_retired(key, source)
    return _without(settings, gone) if gone else settings


def _without(settings: dict[str, Any], gone: list[str], prefix: str = "") -> dict[str, Any]:
    return {
        name: _without(value, gone, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in settings.items()
        if f"{prefix}{name}" not in gone
    }

"""Unlabelled images that cannot be read: too many of them are found before a training begins."""

from hiervl.data.checking.image_facts import read_image_facts
from hiervl.data.folders.layout import FolderLayout
from hiervl.utils.errors import UserError
from hiervl.utils.parallel import evenly_spread
from hiervl.utils.text import listed

MOST_READ = 500  # as many as the preset looks at, which takes their facts from the store
NAMED = 3
BY_CHANCE = 10  # files more than twice the allowed share, which a sample of sound data does not have by chance


def refuse_unreadable(layout: FolderLayout, max_damaged: float) -> None:
    """Stop a training that would stop in its first iterations, because too many unlabelled images cannot be read.

    At most ``MOST_READ`` images are read, evenly spread.

    Args:
        max_damaged: DATALOADER.MAX_DAMAGED, the share that training may leave out.

    Raises:
        UserError: names the first such files.
    """
    total, some = len(layout.unlabeled), evenly_spread(layout.unlabeled, MOST_READ)
    facts = read_image_facts(some, layout.store, layout.bands)
    broken = {path: str(found) for path, found in zip(some, facts) if isinstance(found, UserError)}
    is_certain = len(broken) > max_damaged * total or len(broken) > 2 * max_damaged * len(some) + BY_CHANCE
    if not is_certain:
        return
    first = next(iter(broken.values())).rstrip(".")
    looked_at = f"{len(some)}" if len(some) == total else f"{len(some)} that were looked at, of {total}"
    raise UserError(
        f"{len(broken)} unlabelled images of {looked_at} cannot be read, more than the share DATALOADER.MAX_DAMAGED "
        f"({max_damaged:g}) allows: {listed(list(broken), NAMED)} (the first: {first}); "
        "replace them or take them out of DATASET.UNLABELED. The command check-data shows all of them."
    )

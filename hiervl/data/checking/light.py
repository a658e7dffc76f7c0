"""Find unlabelled images that are much darker or brighter than all labelled ones."""

from collections.abc import Mapping, Sequence

from hiervl.data.checking.image_facts import ImageFacts
from hiervl.data.checking.statistics import WARNING, Finding

# "Far darker" is below this share of the brightness of the darkest labelled image. "Far brighter" is the same for
# darkness, 255 minus the brightness: below this share of the darkness of the brightest labelled image.
FACTOR = 0.75
LEAST_SHARE = 0.05  # of the unlabelled images; fewer are not worth a warning
WHITE = 255.0
LABEL = "label one or two of them"
TRANSFER = (
    ", or let labelled images take on their colours (SEMI.COLOR_TRANSFER 0.7 SEMI.COLOR_AGREEMENT True; not where "
    "colours tell the classes apart)"
)


def in_unseen_light(labeled: Sequence[ImageFacts], unlabeled: Mapping[str, ImageFacts]) -> dict[str, dict[str, float]]:
    """Unlabelled images that are far "darker" or far "brighter" than every labelled training image.

    Args:
        labeled: facts of the labelled training images.
        unlabeled: facts of the unlabelled images, by path.

    Returns:
        for each of the two, if they are more than ``LEAST_SHARE``: the brightness of the images by path.
    """
    if not labeled or not unlabeled:
        return {}
    levels = [brightness(facts) for facts in labeled]
    found = {path: brightness(facts) for path, facts in unlabeled.items()}
    outside = {
        "darker": {path: level for path, level in found.items() if level < FACTOR * min(levels)},
        "brighter": {path: level for path, level in found.items() if WHITE - level < FACTOR * (WHITE - max(levels))},
    }
    return {kind: files for kind, files in outside.items() if len(files) > LEAST_SHARE * len(found)}


def light_findings(
    labeled: Sequence[ImageFacts], unlabeled: Mapping[str, ImageFacts], transfers_colors: bool = False
) -> list[Finding]:
    """Warn of unlabelled images that are far darker or brighter than every labelled training image.

    On such images a network is often wrong about whole regions, and confident. It then learns from wrong pseudo-labels.

    Args:
        labeled, unlabeled: as in :func:`in_unseen_light`.
        transfers_colors: SEMI.COLOR_TRANSFER is on already, so the warning does not advise it.
    """
    remedy = LABEL + ("" if transfers_colors else TRANSFER)
    levels = [brightness(facts) for facts in labeled]
    return [
        Finding(
            WARNING,
            f"{len(files)} of {len(unlabeled)} unlabelled images are far {kind} than every labelled training image "
            f"(mean grey value {min(files.values()):.0f} to {max(files.values()):.0f}, labelled {min(levels):.0f} to "
            f"{max(levels):.0f}): {remedy}.",
            tuple(sorted(files, key=files.__getitem__)),
        )
        for kind, files in in_unseen_light(labeled, unlabeled).items()
    ]


def brightness(facts: ImageFacts) -> float:
    """Mean grey value of the thumbnail, 0…255."""
    return float(facts.mark.thumbnail.mean())

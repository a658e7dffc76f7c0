"""``python -m hiervl train --config-file FILE``: what ``train_net.py`` does, from anywhere."""

from hiervl.engine import main
from hiervl.engine.main import argument_parser  # noqa: F401  Detectron2's arguments, in place of add_arguments

HELP = "train or evaluate, as train_net.py"


def run(args) -> int:
    """0; a mistake of the user's ends the process with a sentence and status 1, as ``train_net.py`` does."""
    main.run(args)
    return 0

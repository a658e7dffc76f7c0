"""``python -m hiervl train --config-file FILE``: the same as ``train_net.py``, from any folder."""

from hiervl.engine import main
from hiervl.engine.main import argument_parser  # noqa: F401  Detectron2's arguments, in place of add_arguments

HELP = "train or evaluate, as train_net.py"


def run(args) -> int:
    """Return 0. A mistake of the user ends the process with one sentence and status 1, as in ``train_net.py``."""
    main.run(args)
    return 0

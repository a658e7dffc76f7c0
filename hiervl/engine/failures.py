"""Errors of a training on their way through Detectron2's loop, which would log them with a traceback."""

import contextlib
from collections.abc import Iterator

import torch

from hiervl.engine.launch import is_lost_connection, peer_failure
from hiervl.utils.errors import UserError


class UserStop(BaseException):
    """Carries a UserError through Detectron2's loop, which would log it with a traceback."""

    def __init__(self, error: UserError):
        super().__init__(str(error))
        self.error = error


def out_of_memory() -> UserError:
    """For a full GPU at an unknown place; the iteration and the evaluation give more detailed errors themselves."""
    return UserError(
        "the GPU's memory is exhausted: end other programs that use it (nvidia-smi lists them) or lower "
        "INPUT.CROP_SIZE; continue with --resume."
    )


@contextlib.contextmanager
def past_detectron2() -> Iterator[None]:
    """Turn errors that have a clear sentence into :class:`UserStop`."""
    try:
        yield
    except UserError as error:
        raise UserStop(error) from None
    except torch.cuda.OutOfMemoryError as error:
        raise UserStop(out_of_memory()) from error
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        raise UserStop(peer_failure()) from error

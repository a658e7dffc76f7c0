"""The processes that ``torchrun`` starts share one list of files."""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch.distributed as dist

from hiervl.utils.errors import UserError

# Ranks meet only at the start and at the end. With many files this may be days later.
PATIENCE = datetime.timedelta(days=30)


class Ranks(NamedTuple):
    """The rank of this process among the others. Without ``torchrun`` it is alone."""

    rank: int
    world_size: int
    local_rank: int

    def share(self, items: Sequence[Any]) -> list[Any]:
        """Every ``world_size``-th item: each belongs to exactly one rank."""
        return list(items[self.rank :: self.world_size])

    def decide(self, make: Callable[[], Any]) -> Any:
        """The result of ``make`` on rank 0, on every rank. A :class:`UserError` there is raised on all ranks."""
        if self.world_size == 1:
            return make()
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer = [make(), None]
            except UserError as error:
                answer = [None, str(error)]
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise UserError(answer[1])
        return answer[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def torchrun_ranks() -> Iterator[Ranks]:
    """Join the other processes, if ``torchrun`` started several."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks(0, 1, 0)
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), world_size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()

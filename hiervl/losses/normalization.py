"""The divisors of loss sums: with them, several processes train as one process would on the whole batch."""

import torch
from detectron2.utils import comm
from torch import Tensor


def mean_over_processes(count: Tensor, least: float = 1.0) -> Tensor:
    """Mean over the processes of the count that each has for its part of the batch.

    Data-parallel training averages the processes' gradients. With W processes, a sum divided by this mean therefore
    contributes Σ_w sum_w / Σ_w count_w, as in one process. Divided by the process's own count instead, images would
    weigh more in a process that has fewer labels.

    Every process must call this equally often, even if it has nothing to count.

    Args:
        count: scalar, on the device that the processes communicate through.
        least: the counts of all processes together are at least this, so that nothing is divided by 0.
    """
    total = count.detach().float()
    world_size = comm.get_world_size()
    if world_size > 1:
        total = total.clone()
        torch.distributed.all_reduce(total)
    return total.clamp(min=least) / world_size

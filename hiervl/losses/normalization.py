"""What sums of losses are divided by, so that several processes train as one would on the whole batch."""

import torch
from detectron2.utils import comm
from torch import Tensor


def mean_over_processes(count: Tensor, least: float = 1.0) -> Tensor:
    """The mean over the processes of what each of them counted in its part of the batch.

    Data-parallel training averages the processes' gradients. With W processes, a sum divided by this mean therefore
    contributes Σ_w sum_w / Σ_w count_w, as in one process; divided by the process's own count, an image would weigh
    the more, the fewer labels its process has.

    Every process has to call this equally often, also one that has nothing to count.

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

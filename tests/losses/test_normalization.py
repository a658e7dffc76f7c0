"""What sums of losses are divided by, in one process and beside a second one that the tests imitate."""

import pytest
import torch

from hiervl.losses import normalization
from hiervl.losses.normalization import mean_over_processes


def test_alone_it_is_the_count_itself():
    assert mean_over_processes(torch.tensor(7)).item() == 7
    assert mean_over_processes(torch.tensor(0.25)).item() == 1  # nothing is divided by less, unless it is allowed
    assert mean_over_processes(torch.tensor(0.25), least=1e-6).item() == 0.25


@pytest.mark.parametrize("own, expected", [(3.0, (3 + 6) / 2), (-6.0, 1 / 2)])
def test_of_two_processes_it_is_the_mean_and_the_count_stays(monkeypatch, own, expected):
    monkeypatch.setattr(normalization.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(6))
    count = torch.tensor(own)
    assert mean_over_processes(count).item() == expected
    assert count.item() == own

import itertools

import torch

from hiervl.data.loading.streams import MicroBatchSampler, Stream, pack_streams, unpack_streams
from hiervl.utils.errors import UserError


def test_every_epoch_is_another_permutation():
    stream = Stream("labeled", 10, seed=0)
    orders = [[stream.index(10 * epoch + place) for place in range(10)] for epoch in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert Stream("labeled", 10, seed=0).index(25) == orders[2][5]
    assert [Stream("unlabeled", 10, seed=0).index(place) for place in range(10)] != orders[0]


def test_processes_share_an_iteration():
    def positions(rank, world_size, accumulation):
        sampler = MicroBatchSampler([Stream("a", 7, 0)], [12], accumulation, 3, rank, world_size)
        batches = itertools.islice(sampler, accumulation)
        return [position for batch in batches for _, position, _ in batch]

    shares = [positions(rank, 2, 3) for rank in range(2)]
    assert [len(share) for share in shares] == [6, 6]
    assert sorted(shares[0] + shares[1]) == positions(0, 1, 1) == list(range(36, 48))


def test_packing_stacks_and_unpacking_restores():
    samples = [{"image": torch.full((2,), number), "file_name": str(number)} for number in range(3)]
    batch = [("labeled", samples[0]), ("unlabeled", samples[1]), ("labeled", samples[2])]
    packed = pack_streams(batch)
    assert packed["labeled"]["image"].shape == (2, 2)
    unpacked = unpack_streams(packed)
    assert [sample["file_name"] for sample in unpacked["labeled"]] == ["0", "2"]
    assert torch.equal(unpacked["labeled"][1]["image"], samples[2]["image"])
    assert unpack_streams(pack_streams(batch[:1]))["unlabeled"] == []


def test_an_error_takes_the_batch_place():
    error = UserError("x.png is missing.")
    assert pack_streams([("labeled", {"image": torch.zeros(1)}), ("labeled", error)]) is error

import os
from pathlib import Path

import pytest

from hiervl.data.registered.splits import label_split

PUBLISHED = Path(__file__).parents[4] / "shared" / "splits" / "camvid"


def test_split_depends_on_the_names_alone_and_subsets_nest():
    names = [f"{number:03d}" for number in range(50)]
    labeled, unlabeled = label_split(names, 12)
    assert label_split(names[::-1], 12) == (labeled, unlabeled)
    assert sorted(labeled + unlabeled) == names and len(labeled) == 12
    assert set(labeled) < set(label_split(names, 23)[0])
    assert label_split(names, 12, seed=1)[0] != labeled


@pytest.mark.parametrize("count", [-1, 4])
def test_an_impossible_count_is_refused(count):
    with pytest.raises(ValueError, match="3 images"):
        label_split(["a", "b", "c"], count)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the lists of the shared splits are not here")
@pytest.mark.parametrize("count", [12, 23, 46, 92, 184])
def test_equals_the_shared_camvid_lists(count):
    def stems(name):
        lines = (PUBLISHED / str(count) / name).read_text().splitlines()
        return [os.path.splitext(os.path.basename(line.split()[0]))[0] for line in lines]

    labeled, unlabeled = stems("labeled.txt"), stems("unlabeled.txt")
    assert label_split(labeled + unlabeled, count) == (labeled, unlabeled)

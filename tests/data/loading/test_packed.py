import os
import pickle

import pytest

from hiervl.data.loading.packed import PackedDicts, PackedPaths, UnlabeledDicts


def test_dicts_come_out_as_they_went_in():
    dicts = [{"file_name": f"ä/{n}.jpg", "image_id": str(n), "boxes": [[n, 2.5]] * n} for n in range(5)]
    packed = PackedDicts(entry for entry in dicts)
    assert list(packed) == dicts and len(packed) == 5
    assert list(pickle.loads(pickle.dumps(packed))) == dicts  # as workers that do not fork receive it
    packed[3]["file_name"] = "other"
    assert packed[3] == dicts[3]  # the next epoch finds the dict unchanged
    assert packed[::2] == dicts[::2]
    for wrong in (5, -1):
        with pytest.raises(IndexError):
            packed[wrong]
    assert len(PackedDicts([])) == 0


def test_distinct_paths_keep_their_first_place():
    paths = ["/b.jpg", "/ä ß/1.jpg", os.fsdecode(b"/no utf-8 \xff.jpg"), "/b.jpg", "/a.jpg"]
    packed = PackedPaths(paths)
    assert list(packed) == paths and packed[1:3] == paths[1:3]
    assert list(pickle.loads(pickle.dumps(packed))) == paths
    assert list(packed.distinct()) == [*paths[:3], "/a.jpg"]
    assert list(PackedPaths(paths[1:]).distinct()) == paths[1:]


def test_dicts_of_unlabeled_images():
    dicts = UnlabeledDicts(["/a/1.x.jpg", "/b/ä.png", "/b/3.png"])
    assert dicts[0] == {"file_name": "/a/1.x.jpg", "image_id": "1.x"}
    assert [entry["image_id"] for entry in dicts[1:]] == ["ä", "3"]

import hashlib
import runpy
from pathlib import Path

import pytest

from hiervl.utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]
PUBLISHED = REPOSITORY.parent / "shared" / "splits"


@pytest.fixture
def script():
    return runpy.run_path(str(REPOSITORY / "datasets" / "prepare_splits.py"))


@pytest.fixture
def source(tmp_path):
    for name in ("ade/1_8", "coco/1_512"):
        (tmp_path / "source" / name).mkdir(parents=True)
        (tmp_path / "source" / name / "labeled.txt").write_text(f"{name}.jpg {name}.png\n")
    return tmp_path / "source"


def sums_of(source):
    paths = source.rglob("*.txt")
    return {path.relative_to(source).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize("downloaded", [False, True])
def test_lists_are_copied_and_only_wrong_ones_again(script, source, tmp_path, capsys, downloaded):
    where = {"url": source.as_uri()} if downloaded else {"source": source}
    sums, root = sums_of(source), tmp_path / "splits"
    script["prepare"](root, sums=sums, **where)
    assert sums_of(root) == sums
    (root / "ade/1_8/labeled.txt").write_text("changed")
    capsys.readouterr()
    script["prepare"](root, sums=sums, **where)
    assert sums_of(root) == sums
    told = capsys.readouterr().err
    assert "getting ade/1_8/labeled.txt" in told and "getting coco" not in told


def test_a_list_that_is_not_the_published_one_is_refused(script, source, tmp_path):
    sums = {**sums_of(source), "coco/1_512/labeled.txt": "0" * 64}
    with pytest.raises(UserError, match="coco/1_512/labeled.txt of .* is not the published list"):
        script["prepare"](tmp_path / "splits", source, sums=sums)
    assert not (tmp_path / "splits" / "coco").exists()


def test_a_missing_source_is_one_sentence(script, tmp_path):
    with pytest.raises(UserError, match="--source names the folder that holds ade"):
        script["prepare"](tmp_path / "splits", tmp_path / "nowhere")


def test_every_subset_has_a_sum(script):
    from hiervl.data.registered.benchmarks import BENCHMARKS

    sums = script["read_sums"](script["SUMS"])
    needed = {f"{place}/labeled.txt" for benchmark in BENCHMARKS for place in benchmark.subsets.values()}
    assert len(needed) == 20 and needed <= set(sums)
    assert all(len(digest) == 64 for digest in sums.values())


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"the published lists are not in {PUBLISHED}")
def test_the_sums_are_those_of_the_published_lists(script, tmp_path):
    script["prepare"](tmp_path / "splits", PUBLISHED)
    assert sums_of(tmp_path / "splits") == script["read_sums"](script["SUMS"])

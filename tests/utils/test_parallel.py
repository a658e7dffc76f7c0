import os
import time

from hiervl.utils import parallel
from hiervl.utils.parallel import FEW, map_files, with_progress


def test_many_items_are_divided_among_processes_and_stay_in_order():
    items = list(range(3 * FEW))
    results = list(map_files(lambda item: (item, os.getpid()), items, "numbers", processes=2))
    assert [item for item, _ in results] == items
    assert os.getpid() not in {process for _, process in results}
    assert {process for _, process in map_files(lambda item: (item, os.getpid()), items[:3], "numbers")} == {
        os.getpid()
    }


def test_progress_is_told_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(parallel, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(with_progress(iter("abcd"), 4, "images")) == list("abcd")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and lines[1].startswith("images: 2 of 4, ") and lines[1].endswith(" s left")
    monkeypatch.setattr(parallel, "SECONDS_BETWEEN_LINES", 60.0)
    list(with_progress((time.sleep(0) for _ in range(4)), 4, "images"))
    assert capsys.readouterr().err == ""

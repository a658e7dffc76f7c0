import pytest

from hiervl.data.preparation.script import Progress, check_contents, missing_contents, names_in, run_script
from hiervl.utils.errors import UserError


def test_files_are_counted_but_not_those_in_the_making(tmp_path):
    (tmp_path / ".1.png").touch()
    (tmp_path / "2.png").touch()
    assert names_in(tmp_path, ".png") == {"2"} and names_in(tmp_path / "none", ".png") == set()
    check_contents(tmp_path, {"*.png": 1})
    with pytest.raises(UserError, match="png are 1 files instead of 0: remove what does not belong there"):
        check_contents(tmp_path, {"*.png": 0})
    assert missing_contents(tmp_path, {"*.png": 0}) == ""
    assert missing_contents(tmp_path, {"*.png": 2}).endswith("png are 1 files instead of 2")


def test_progress_is_one_line_where_there_is_no_terminal(capsys):
    with Progress("converting", 2000, " files") as progress:
        for done in range(2001):
            progress.show(done)
    assert capsys.readouterr().err == "converting: 2,000 of 2,000 files\n"


@pytest.mark.parametrize(
    "problem, message",
    [
        (UserError("fix it."), "error: fix it."),
        (OSError(28, "No space left on device", "/data"), "error: /data: No space left on device."),
        (KeyboardInterrupt(), "interrupted; run it again to continue."),
    ],
)
def test_a_script_ends_with_one_sentence(problem, message):
    def main():
        raise problem

    with pytest.raises(SystemExit) as end:
        run_script(main)
    assert end.value.code == message

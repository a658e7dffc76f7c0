import json
import os

import pytest

from hiervl.utils.files import read_text, whole_file, write_json, write_text


def test_a_file_appears_whole_or_keeps_its_old_content(tmp_path):
    path = tmp_path / "new folder" / "a.txt"
    write_text(path, "old\r\n")
    with pytest.raises(ValueError), whole_file(path) as temporary:
        temporary.write_text("half")
        assert path.read_bytes() == b"old\r\n"
        raise ValueError
    assert path.read_bytes() == b"old\r\n" and os.listdir(path.parent) == ["a.txt"]
    with whole_file(path, ending=".mp4", durable=True) as temporary:
        assert temporary.name == f"a.txt.{os.getpid()}.tmp.mp4"
        temporary.write_text("new")
    assert path.read_text() == "new" and os.listdir(path.parent) == ["a.txt"]


def test_json_keeps_letters_and_ends_its_last_line(tmp_path):
    write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert (tmp_path / "a.json").read_bytes() == '{"ä": [1, null]}\n'.encode()


def test_texts_of_other_programs_are_read(tmp_path):
    path = tmp_path / "a.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        path.write_bytes("Größe".encode(encoding))
        assert read_text(path) == "Größe"
    path.write_bytes("é".encode() * 10 + b"\xff\x81")  # neither
    with pytest.raises(UnicodeDecodeError):
        read_text(path)


def test_file_names_that_are_no_utf8_are_written(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"file": name})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{"file": "caf\\udce9"}\n' and json.loads(text)["file"] == name
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_bytes() == b"caf\xe9"

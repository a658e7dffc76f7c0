import hashlib
import os

import pytest
from PIL import Image

from hiervl.data.folders.files import (
    choose_names,
    find_files,
    find_folder,
    image_size,
    list_files,
    read_list,
    write_list,
)
from hiervl.utils.errors import UserError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_files_of_all_formats_in_subfolders(tmp_path):
    touch(tmp_path, "b/2.JPEG", "a/1.jpg", "3.webp", "4.tif", "5.tiff", "6.bmp", "7.png", "notes.txt", ".hidden.png",
          ".cache/8.png")  # fmt: skip
    assert list(find_files(tmp_path)) == ["3", "4", "5", "6", "7", "a/1", "b/2"]
    touch(tmp_path, "a/1.png")
    with pytest.raises(UserError, match="1.jpg and 1.png share one stem"):
        find_files(tmp_path)
    touch(tmp_path, "a-b/1.jpg")
    (tmp_path / "round").symlink_to(tmp_path)
    # In the order of the folders, not of the characters; unlabelled images need no mask.
    names = [os.path.relpath(path, tmp_path) for path in list_files(tmp_path) if "1." in path]
    assert names == ["a/1.jpg", "a/1.png", "a-b/1.jpg"]


def test_linked_folders_are_searched_and_circles_end(tmp_path):
    touch(tmp_path, "images/1.jpg", "disk/2.jpg")
    (tmp_path / "images" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "images")
    assert list(find_files(tmp_path / "images")) == ["1", "more/2"]


def test_links_upwards_and_what_systems_leave_behind_are_passed_over(tmp_path):
    touch(tmp_path, "images/1.jpg", "images/__MACOSX/2.jpg", "images/@eaDir/1.jpg/THUMB.jpg", "masks/1.jpg")
    (tmp_path / "images" / "up").symlink_to(tmp_path)
    assert list(find_files(tmp_path / "images")) == ["1"]


def test_lists_in_the_encodings_of_other_programs(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        (tmp_path / "list.txt").write_bytes("größe 1\r\n\r\n2\r\n".encode(encoding))
        assert list(read_list(tmp_path / "list.txt", "KEY")) == ["größe 1", "2"]


def test_names_that_are_no_utf8_have_a_hash(tmp_path):
    names = [os.fsdecode(b"caf\xe9"), "é"]
    assert write_list(tmp_path / "list.txt", names) == hashlib.sha256(b"caf\xe9\n\xc3\xa9\n").hexdigest()


def test_what_is_no_list_is_called_what_it_is(tmp_path):
    """The proposal of a similar name would be the path itself."""
    (tmp_path / "images").mkdir()
    (tmp_path / "b.txt").write_bytes(bytes(range(256)))
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"X: .*images is a folder, but a list is a text file with one name a line\.$"):
        list(read_list(tmp_path / "images", "X"))
    with pytest.raises(UserError, match=r"X: .*b.txt is not text, but a list is a text file with one name a line\.$"):
        list(read_list(tmp_path / "b.txt", "X"))
    with pytest.raises(UserError, match=r"X: there is no folder .*link\.$"):
        find_folder(tmp_path, "link", "X")


def test_folder_of_a_like_name_is_named(tmp_path):
    (tmp_path / "labelled").mkdir()
    with pytest.raises(UserError, match="DATASET.X: there is no folder .*labeled; did you mean .*labelled[?]$"):
        find_folder(tmp_path, "labeled", "DATASET.X")
    assert find_folder(tmp_path, "labelled", "DATASET.X") == tmp_path / "labelled"


def test_size_from_the_header_obeys_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (40, 20)).save(tmp_path / "plain.jpg")
    assert image_size(tmp_path / "turned.jpg") == (40, 20)
    assert image_size(tmp_path / "plain.jpg") == (20, 40)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match="text.jpg cannot be read"):
        image_size(tmp_path / "text.jpg")


def test_lists_carry_a_hash(tmp_path):
    path = tmp_path / "lists" / "2.txt"
    digest = write_list(path, ["a", "b"])
    assert digest == hashlib.sha256(b"a\nb\n").hexdigest()
    assert list(read_list(path, "KEY")) == ["a", "b"]
    path.write_text(path.read_text() + "c\n")
    with pytest.raises(UserError, match="KEY: the names in .*2.txt were changed"):
        list(read_list(path, "KEY"))
    path.write_text("# mine\n\na\n c \n")
    assert list(read_list(path, "KEY")) == ["a", "c"]
    path.write_text("# nothing\n")
    with pytest.raises(UserError, match="names no image"):
        list(read_list(path, "KEY"))
    with pytest.raises(UserError, match="KEY: the list .*3.txt cannot be read .*did you mean .*2.txt"):
        list(read_list(tmp_path / "lists" / "3.txt", "KEY"))


def test_list_that_windows_saved(tmp_path):
    """A mark in front, two characters at the end of a line; the hash is still that of the names."""
    digest = write_list(tmp_path / "a.txt", ["ä 1", "b"])
    content = b"\xef\xbb\xbf" + (tmp_path / "a.txt").read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "a.txt").write_bytes(content)
    assert digest in content.decode() and list(read_list(tmp_path / "a.txt", "KEY")) == ["ä 1", "b"]
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfc\r\n")
    assert list(read_list(tmp_path / "b.txt", "KEY")) == ["c"]


def test_names_of_a_list(tmp_path):
    stems = ["a/1", "b/1", "c/img.v2"]
    path = tmp_path / "list.txt"
    assert choose_names(["a/1.jpg", "b\\1", "img.v2.png", "a/1"], stems, path, "KEY") == ["a/1", "b/1", "c/img.v2"]
    assert choose_names(["Img_07.JPG"], ["IMG_7", "IMG_8"], path, "KEY") == ["IMG_7"]
    with pytest.raises(UserError, match="'07' in .*list.txt is not an image"):
        choose_names(["07"], ["7", "007"], path, "KEY")
    with pytest.raises(UserError, match="'1' in .*list.txt fits several images"):
        choose_names(["1"], stems, path, "KEY")
    with pytest.raises(UserError, match="'c/img' in .* is not an image with a mask; did you mean c/img.v2[?]"):
        choose_names(["c/img"], stems, path, "KEY")

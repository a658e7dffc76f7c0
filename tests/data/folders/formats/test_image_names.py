"""Paths that other systems and tools write, and the image that each means."""

import pytest

from hiervl.data.folders.formats.image_names import ImageNames

NAMES = ImageNames(["a/1", "b/1", "b/2", "big cat", "50%25", "IMG_7", "dead-beef-9"])


@pytest.mark.parametrize(
    "written, stem",
    [
        ("b/1.jpg", "b/1"),
        ("..\\..\\photos\\b\\1.JPG", "b/1"),
        ("C:\\Users\\ada\\a\\1.png", "a/1"),
        ("/home/ada/set/a/1.png", "a/1"),
        ("file:///D:/set/big%20cat.jpg", "big cat"),
        ("s3://bucket/set/b/2.tif", "b/2"),
        ("https://host/photos/big%20cat.jpeg", "big cat"),
        ("/data/upload/3/0a1b2c3d-big%20cat.jpg", "big cat"),
        ("/data/local-files/?d=set/b/2.jpg", "b/2"),
        ("/data/local-files/?d=set%5Cb%5C2.jpg", "b/2"),
        ("50%25.jpg", "50%25"),
        ("img_7.jpg", "IMG_7"),
        ("dead-beef-9.png", "dead-beef-9"),
        ("1.jpg", None),  # of two folders
        ("c/1.jpg", None),
        ("nothing.jpg", None),
    ],
)
def test_paths_of_other_systems_find_their_image(written, stem):
    assert NAMES.find(written) == stem


@pytest.mark.parametrize(
    "written, stem",
    [
        ("s1/labels/7", "s1/images/7"),
        ("s2/x/labels/7", "s2/images/7"),
        ("s3/labels/7", None),  # of two folders, one of which is near
        ("s1/labels/8", None),
        ("s1/labels/9", "s2/images/9"),  # its name alone tells
        ("labels/7", None),
        ("7", None),
    ],
)
def test_annotation_files_are_of_the_image_of_their_name_beside_them(written, stem):
    names = ImageNames(["s1/images/7", "s2/images/7", "s3/left/7", "s3/right/7", "s2/images/9", "s2/a/8", "s3/a/8"])
    assert names.find_for_file(written) == stem

"""Broken and hostile bytes for every reader: a value or one sentence, never another exception, a hang or full memory.

With HIERVL_SOAK set (``make soak``) each reader is given 10,000 inputs, else some dozens.
"""

import io
import os
import resource

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hiervl.config.defaults import get_hiervl_cfg
from hiervl.data.classes.definitions import read_classes
from hiervl.data.loading import readers
from hiervl.engine.run_config import load_config
from hiervl.modeling.clip_weights import read_foreign
from hiervl.utils.checkpoint_file import read_checkpoint
from hiervl.utils.errors import UserError

EXAMPLES = 10_000 if os.environ.get("HIERVL_SOAK") else 60
MEMORY = 1 << 30  # bytes that the readers may need beyond what is there before
FUZZ = settings(
    max_examples=EXAMPLES, deadline=10_000, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def images():
    gray = np.random.default_rng(0).integers(0, 11, (12, 16)).astype(np.uint8)
    color = Image.fromarray(np.stack((gray, gray, gray), -1) * 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encoded(Image.fromarray(gray), "PNG"),
        encoded(Image.fromarray(gray.astype(np.uint16) * 500), "PNG"),
        encoded(color, "JPEG", exif=exif),
        encoded(color.convert("CMYK"), "JPEG"),
        encoded(color, "TIFF", compression="tiff_lzw"),
        encoded(color.convert("P"), "GIF"),
        encoded(color, "WEBP"),
        encoded(color, "BMP"),
        encoded(color, "PPM"),
    ]


def checkpoint():
    buffer = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(4)}, "class_names": ["a"], "trainer": {"iteration": 1}}, buffer)
    return buffer.getvalue()


def clip_archive():
    """In OpenAI's form."""
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2).half())
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


@st.composite
def mutated(draw, seeds):
    """A valid file with bytes changed, cut out or doubled."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        how = draw(st.sampled_from(["byte", "cut", "double", "insert"]))
        if how == "byte" and content:
            content[place] = draw(st.integers(0, 255))
        elif how == "cut":
            del content[place : place + draw(st.integers(1, 40))]
        elif how == "double":
            content[place:place] = content[place : place + draw(st.integers(1, 40))]
        else:
            content[place:place] = draw(st.binary(max_size=8))
    return bytes(content)


@pytest.fixture(autouse=True)
def bounds(monkeypatch):
    """Pixels are bounded more tightly than in earnest, and so is the memory, which the bound has to keep."""
    monkeypatch.setattr(readers, "MAX_PIXELS", 4_000_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def answer(read, path, content):
    path.write_bytes(content)
    try:
        return read(str(path))
    except UserError as error:
        assert "\n" not in str(error) and str(error)
        return None


@FUZZ
@given(content=mutated(images()))
def test_image_reader_gives_an_image_or_one_sentence(tmp_path_factory, content):
    image = answer(readers.read_image, tmp_path_factory.getbasetemp() / "fuzz.png", content)
    assert image is None or (image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3)


@FUZZ
@given(content=mutated(images()))
def test_mask_reader_gives_classes_or_one_sentence(tmp_path_factory, content):
    """Never a value that is not a class, whatever the file holds."""
    path = tmp_path_factory.getbasetemp() / "fuzz_label.png"
    label = answer(lambda name: readers.read_label(name, 11, 255, (12, 16)), path, content)
    assert label is None or (label.shape == (12, 16) and set(np.unique(label)) <= {*range(11), 255})
    instances = answer(readers.read_instances, path, content)
    assert instances is None or (instances.ndim == 2 and instances.dtype in (np.uint8, np.int32))


YAMLS = [
    b"classes: [road, {name: car, phrases: [a car, a lorry], color: [1, 2, 3]}]\n",
    b'MODEL: {CLIP: {NAME: shapesworld}}\nSOLVER: {BASE_LR: 0.1}\nDATASETS: {TRAIN: ("a",)}\n',
    b"classes: [!!python/object/apply:os.system ['true']]\n",
    b"a: &a [1, 1]\nb: &b [*a, *a]\nclasses: *b\n2024-02-30: 0x_ .inf\n",
]


@FUZZ
@given(content=st.one_of(mutated(YAMLS), st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore"))))
def test_yaml_readers_give_values_or_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    classes = answer(read_classes, path, content)
    assert classes is None or (
        classes and all(isinstance(of_class.name, str) and of_class.phrases for of_class in classes)
    )
    cfg = answer(load_config, path, content)
    assert cfg is None or cfg.keys() == get_hiervl_cfg().keys()


@FUZZ
@given(content=mutated([checkpoint()]))
def test_checkpoint_reader_gives_tensors_or_one_sentence(tmp_path_factory, content):
    read = answer(read_checkpoint, tmp_path_factory.getbasetemp() / "fuzz.pth", content)
    assert read is None or "model" in read


@FUZZ
@given(content=mutated([clip_archive()]))
def test_reader_of_clip_archives(tmp_path_factory, content):
    read = answer(read_foreign, tmp_path_factory.getbasetemp() / "fuzz.pt", content)
    assert read is None or all(isinstance(tensor, torch.Tensor) for tensor in read.values())

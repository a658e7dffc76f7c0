"""Exported files compute what the network does, at any batch and size, without HierVL."""

import json
import logging

import pytest
import torch
import yaml

from hiervl import __main__ as entry
from hiervl.data.classes.definitions import ClassDefinition
from hiervl.inference import export as package
from hiervl.inference.export import FORMATS, FixedClassSegmenter, export_graph, export_network, files, parity
from hiervl.inference.export.formats import Format
from hiervl.inference.export.graph import export_form
from hiervl.utils.errors import UserError

NEW_NAMES = ["background", "sky", "wild dog"]
# More text queries than the smallest image has pixels in the decoder's maps, fewer than the largest.
MANY_NAMES = ["background", *(f"thing {number}" for number in range(70))]
# The second is one pixel above a multiple of the stride (16), the third a multiple, as the native grid of the encoder.
SHAPES = [(3, 40, 70), (1, 33, 17), (1, 64, 64), (2, 96, 48)]


@pytest.fixture(autouse=True)
def without_traces(monkeypatch):
    """pytest listens to all loggers; torch.export then writes a trace of itself, which takes most of its time."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)


def describe_anew(network):
    """Classes that were never trained, one of them with two phrases."""
    network.set_classes(NEW_NAMES, [["background"], ["sky", "blue sky"], ["wild dog"]], [0])


@pytest.mark.parametrize(
    "overrides, new_classes",
    [
        ((), False),
        (("MODEL.QUERY_DECODER.CLASSIFIER", "mean"), True),
        (("MODEL.HSQG.RELEVANCE", False, "MODEL.QUERY_DECODER.INSTANCE_QUERIES", 0), False),
        (("MODEL.QUERY_DECODER.PIXEL_PRIOR", True), False),
        (("MODEL.QUERY_DECODER.TEXT_QUERIES", False, "MODEL.CMSAM.PIXELS_READ_TEXT", False), False),
        (("MODEL.META_ARCHITECTURE", "PixelClassifier"), False),
    ],
    ids=[
        "default",
        "new classes",
        "text queries alone",
        "pixel prior",
        "no text",
        "pixel classifier",
    ],
)
def test_export_form_computes_the_same(make_network, overrides, new_classes):
    network = make_network(*overrides).eval()
    if new_classes:
        describe_anew(network)
    segmenter = FixedClassSegmenter(network).eval()
    torch.manual_seed(1)
    for batch, height, width in SHAPES:
        images = 255 * torch.rand(batch, 3, height, width)
        expected = network.semantic_maps(images)
        with export_form(segmenter), torch.no_grad():
            torch.testing.assert_close(segmenter(images), expected, atol=2e-5, rtol=1e-4)
    assert not any("text_encoder" in name for name in segmenter.state_dict())


def test_inactive_classes_are_what_the_export_form_hides(make_network):
    """Else the comparison above would say nothing of them."""
    network = make_network().eval()
    text = network.encode_text()
    images = network.normalize(list(255 * torch.rand(4, 3, 64, 64)))
    with torch.no_grad():
        eager = network.segment(images, text).text_queries
        with export_form(network):
            fixed = network.segment(images, text).text_queries
    assert eager.valid.shape[1] <= fixed.valid.shape[1] == 2 * len(network.class_names)
    assert not fixed.valid.all()
    assert torch.equal(eager.valid.sum(1), fixed.valid.sum(1))


SMALL = ("MODEL.PIXEL_DECODER.LAYERS", 1, "MODEL.QUERY_DECODER.LAYERS", 2)


def class_file(tmp_path, names):
    path = tmp_path / "classes.yaml"
    path.write_text(yaml.safe_dump({"classes": [{"name": name, "background": not i} for i, name in enumerate(names)]}))
    return str(path)


def test_command_writes_files_that_run_at_other_sizes(save_run, tmp_path, capsys, monkeypatch):
    """All formats, from one graph to save time; the ONNX file in ONNX Runtime, without HierVL's help."""
    network, folder = save_run(*SMALL)
    programs = []

    def export_once(segmenter):
        programs.extend([] if programs else [export_graph(segmenter)])
        return programs[0]

    monkeypatch.setattr(files, "export_graph", export_once)
    command = ["export", "--weights", str(folder), "--classes", class_file(tmp_path, NEW_NAMES)]
    network.set_classes(NEW_NAMES, [[name] for name in NEW_NAMES], [0])
    for name, form in FORMATS.items():
        path = tmp_path / "deployed" / f"network{form.suffix}"
        assert entry.main([*command, "--format", name, "--output", str(path)]) == 0
        printed = capsys.readouterr().out
        assert printed.count("max |difference|") == 3 and printed.count("same label at 100.00 %") == 3
        described = json.loads(path.with_name(f"{path.name}.json").read_text())
        assert [record["name"] for record in described["classes"]] == NEW_NAMES
        assert (described["crop_size"], len(described["parity"])) == (32, 3)
    assert len(list(path.parent.iterdir())) == 2 * len(FORMATS)  # nothing else is left behind

    run = run_alone(tmp_path / "deployed" / "network.onnx")
    for shape in SHAPES:
        images = parity.random_images(shape, torch.Generator().manual_seed(2))
        expected, scores = network.semantic_maps(images), run(images)
        difference = (scores - expected).abs().max().item()
        assert difference < 1e-4, (shape, difference)
        best, second = expected.topk(2, dim=1).values.unbind(1)
        is_clear = best - second > 2 * difference
        assert is_clear.float().mean() > 0.99
        assert torch.equal(scores.argmax(1)[is_clear], expected.argmax(1)[is_clear]), shape


def run_alone(path):
    """An ONNX file by ONNX Runtime; what it says of itself is enough to use it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert [record["name"] for record in json.loads(metadata["classes"])] == NEW_NAMES
    assert json.loads(metadata["crop_size"]) == 32
    (images,), (scores,) = session.get_inputs(), session.get_outputs()
    assert (images.name, scores.name) == ("images", "scores")
    return lambda batch: torch.from_numpy(session.run(["scores"], {"images": batch.numpy()})[0])


def test_one_graph_is_right_for_more_queries_than_pixels_and_for_fewer(make_network):
    """The smallest image has fewer pixels than text queries, the largest more."""
    network = make_network(*SMALL).eval()
    network.set_classes(MANY_NAMES, [[name] for name in MANY_NAMES], [0])
    run = export_graph(FixedClassSegmenter(network)).module()
    for shape in SHAPES:
        images = parity.random_images(shape, torch.Generator().manual_seed(3))
        torch.testing.assert_close(run(images), network.semantic_maps(images), atol=1e-4, rtol=1e-3)


def export_stand_in(monkeypatch, make_network, make_cfg, path, distort, **options):
    """Export through a format whose file is the network itself, its scores distorted."""
    network = make_network().eval()
    classes = [ClassDefinition(name, (name,), (0, 0, 0)) for name in network.class_names]
    form = Format(".fake", (), lambda program, at, metadata: at.touch(), lambda at: lambda x: distort(network, x))
    monkeypatch.setitem(FORMATS, "fake", form)
    monkeypatch.setattr(files, "export_graph", lambda segmenter: None)
    return export_network(network, classes, "fake", path, cfg=make_cfg("INPUT.CROP_SIZE", 32), **options)


@pytest.mark.parametrize(
    "distort",
    [
        lambda network, images: network.semantic_maps(images) + 0.01,
        lambda network, images: network.semantic_maps(images) * float("nan"),
    ],
    ids=["shifted", "NaN"],
)
def test_file_that_differs_is_an_error_and_not_kept(monkeypatch, make_network, make_cfg, tmp_path, distort):
    with pytest.raises(UserError, match="differ.*\n.*max .difference"):
        export_stand_in(monkeypatch, make_network, make_cfg, tmp_path / "net.fake", distort)
    assert list(tmp_path.iterdir()) == []


def test_the_users_tolerance_decides(monkeypatch, make_network, make_cfg, tmp_path):
    def shifted(network, images):
        return network.semantic_maps(images) + 0.01

    exported = export_stand_in(monkeypatch, make_network, make_cfg, tmp_path / "a.fake", shifted, tolerance=0.02)
    assert [round(batch_parity.difference, 4) for batch_parity in exported.parity] == [0.01] * 3
    assert {batch_parity.agreement for batch_parity in exported.parity} == {1.0}


def test_mistakes_are_answered_before_any_work(monkeypatch, save_run, tmp_path, capsys):
    _, folder = save_run()
    command = ["export", "--weights", str(folder), "--format"]
    assert entry.main([*command, "torchscript", "--output", str(tmp_path / "net.onnx")]) == 2
    assert "torchscript is written to files ending in .pt" in capsys.readouterr().err
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else True)
    assert entry.main([*command, "onnx", "--output", str(tmp_path / "net.onnx")]) == 2
    assert "pip install onnxscript" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert entry.main([*command, "torchscript", "--output", str(tmp_path / "file" / "net.pt")]) == 2
    assert "net.pt' cannot be written: name a file in a folder" in capsys.readouterr().err
    assert package.FORMATS is FORMATS


def test_images_without_any_active_class_cannot_be_exported(make_network):
    network = make_network("MODEL.HSQG.MIN_ACTIVE", 0, "MODEL.HSQG.ALWAYS_ACTIVE", []).eval()
    with pytest.raises(UserError, match="MIN_ACTIVE"):
        FixedClassSegmenter(network)

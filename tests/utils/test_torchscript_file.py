"""Tensors of TorchScript archives: read as PyTorch reads them, without running any code of the archive."""

import pickle
import struct
import zipfile

import pytest
import torch
from torch import nn

from hiervl.utils.torchscript_file import is_torchscript, read_torchscript


class Small(nn.Module):
    """Shapes, number types and sharing that an archive can have."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.6))
        self.coarse = nn.Parameter(torch.randn(3, 2).half())
        self.turned = nn.Parameter(torch.randn(3, 2).T)  # strides of its own
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.register_buffer("input_resolution", torch.tensor(224))
        self.register_buffer("of_another", self.layers[0].weight.detach()[1:])  # a view of the same storage
        self.register_buffer("empty", torch.zeros(0, 4))
        self.numbers, self.names = [1, 2], {"a": 1.5}

    def forward(self, x):
        return self.layers(x) * self.scale + self.coarse.sum() + self.turned.sum() + len(self.numbers) + self.names["a"]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "archive.pt")


@pytest.mark.parametrize("compile_", [torch.jit.script, lambda module: torch.jit.trace(module, torch.randn(1, 2))])
def test_equals_the_state_dict(path, compile_):
    torch.manual_seed(0)
    torch.jit.save(compile_(Small()), path)
    expected = torch.jit.load(path).state_dict()
    found = read_torchscript(path)
    assert is_torchscript(path) and found.keys() == expected.keys() and len(found) == 10
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)  # and type and shape
        assert found[name].stride() == tensor.stride()


def test_other_files_are_no_archives(path, tmp_path):
    torch.save({"a": torch.zeros(2)}, path)
    (tmp_path / "text").write_text("PK no zip")
    assert not is_torchscript(path) and not is_torchscript(str(tmp_path / "text"))
    with pytest.raises(ValueError, match="not a TorchScript archive"):
        read_torchscript(path)


TWO_NUMBERS = struct.pack("<2f", 1, 2)


class Calls:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def write(path, structure, compression=zipfile.ZIP_STORED, data=TWO_NUMBERS):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", structure)
        archive.writestr("a/constants.pkl", b"\x80\x02).")
        archive.writestr("a/data/0", data)


def structure(count=b"K\x02", size=b"K\x02\x85", stride=b"K\x01\x85", after=b""):
    """A module with one tensor, as PyTorch writes it; ``after``: operations on that tensor."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + count + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + size + stride + b"\x89" + hooks + b"tR"
    return b"\x80\x02c__torch__\nA\n)\x81}X\x01\x00\x00\x00w" + tensor + after + b"sb."


def test_the_archive_by_hand_is_read(path):
    write(path, structure())
    assert torch.equal(read_torchscript(path)["w"], torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    "content, reason",
    [
        (pickle.dumps(Calls(print, "ran"), 2), "asks for __builtin__.print, which is not called"),
        (pickle.dumps(Calls(print, "ran"), 4), "operation FRAME, which is not carried out"),
        (pickle.dumps(Calls(getattr, "a", "b"), 2), "which is not called"),
        (b"\x80\x02ios\nsystem\n.", "operation INST, which is not carried out"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "numbers more values than it has"),
        (structure(after=b"}b"), "sets attributes of a tensor"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "sets attributes of a function"),
        (structure(size=b"M\xff\xff\x85", stride=b"K\x00\x85"), "larger than what is stored"),
        (structure(stride=b"K\x09\x85"), "out of bounds"),
        (structure(count=b"J\xff\xff\xff\x7f"), "has 8 bytes instead of"),
        (structure(count=b"K\x01"), "compressed, or too large"),
        (b"\x80\x02c__torch__\nA\n)\x81q\x00}X\x01\x00\x00\x00wh\x00sb.", "more than 100000 parts"),
        (b"\x80\x02K\x01.", None),
        (b"\x80\x02", ""),
    ],
)
def test_nothing_else_is_carried_out(path, content, reason, capsys):
    write(path, content)
    if reason is None:
        assert read_torchscript(path) == {}
    else:
        with pytest.raises(ValueError, match=reason):
            read_torchscript(path)
    assert capsys.readouterr().out == ""


def test_compressed_and_damaged_entries_are_refused(path):
    write(path, structure(count=b"J\x00\x00\x00\x01"), zipfile.ZIP_DEFLATED, bytes(4 << 24))  # 64 MB in 64 kB
    with pytest.raises(ValueError, match="compressed"):
        read_torchscript(path)
    write(path, structure())
    content = bytearray(open(path, "rb").read())
    content[content.index(TWO_NUMBERS)] ^= 1
    open(path, "wb").write(content)
    with pytest.raises(ValueError, match="CRC"):
        read_torchscript(path)

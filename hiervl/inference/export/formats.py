"""The formats of exported networks: how to write each, and how to run it."""

import contextlib
import json
import logging
import operator
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from .parity import Run

UNSCRIPTED = ("device", "layout", "pin_memory")  # arguments that keep their default in TorchScript
# What the graph calls on sizes, and what TorchScript calls it
OF_SIZES = {
    torch.sym_float: float, torch.sym_int: int, torch.sym_max: max, torch.sym_min: min, torch.sym_not: operator.not_
}  # fmt: skip
METADATA = "hiervl.json"  # name of the description inside TorchScript and torch.export files
OPSET = 20  # the first with GridSample's current names; ONNX Runtime 1.17 and later


class Format(NamedTuple):
    """One file format."""

    suffix: str
    packages: tuple[str, ...]  # besides PyTorch
    write: Callable[[ExportedProgram, Path, dict], None]
    read: Callable[[Path], Run]


def write_onnx(program: ExportedProgram, path: Path, metadata: dict) -> None:
    """``metadata`` is stored in the model, one entry per key, as JSON."""
    import onnxscript.optimizer
    from onnx_ir.passes import common

    with _quiet(), sdpa_kernel(SDPBackend.MATH):  # the opset that the graph was made with
        exported = torch.onnx.export(
            program,
            input_names=["images"],
            output_names=["scores"],
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # its pattern search takes minutes; ONNX Runtime does the same on loading
            verbose=False,
        )
        assert exported is not None  # dynamo=True returns the program
        onnxscript.optimizer.fold_constants(exported.model)
    common.RemoveUnusedNodesPass()(exported.model)
    common.ClearMetadataAndDocStringPass()(exported.model)  # a stack trace per node
    exported.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    exported.save(str(path), external_data=False)


def read_onnx(path: Path, threads: int = 0) -> Run:
    """Run the file in ONNX Runtime on the CPU. threads: 0 lets ONNX Runtime choose."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.cpu().numpy()})[0]).to(images.device)


def write_torchscript(program: ExportedProgram, path: Path, metadata: dict) -> None:
    """The graph of ``torch.export`` as a script. Unlike a trace, it works for all sizes."""
    module = _scriptable(program)
    with _quiet():
        torch.jit.script(module).save(str(path), _extra_files={METADATA: json.dumps(metadata)})


def read_torchscript(path: Path) -> Run:
    with _quiet():
        return _without_gradients(torch.jit.load(str(path)))


def write_torch_export(program: ExportedProgram, path: Path, metadata: dict) -> None:
    with open(path, "wb") as file, _quiet():
        torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})


def read_torch_export(path: Path) -> Run:
    with open(path, "rb") as file:
        return _without_gradients(torch.export.load(file).module())


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx, read_onnx),
    "torchscript": Format(".pt", (), write_torchscript, read_torchscript),
    "torch-export": Format(".pt2", (), write_torch_export, read_torch_export),
}


def _without_gradients(module: Callable[[Tensor], Tensor]) -> Run:
    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            return module(images)

    return run


def _scriptable(program: ExportedProgram) -> fx.GraphModule:
    """The program as a module that TorchScript can compile: without size checks, which TorchScript cannot express."""
    module = program.module()
    graph = module.graph
    for node in reversed(graph.nodes):
        if str(node.target) == "_guards_fn" or (node.op == "call_function" and "_assert_" in str(node.target)):
            graph.erase_node(node)
    graph.eliminate_dead_code()  # before the operators lose the mark that they change their input
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket  # TorchScript chooses the overload itself
            # TorchScript does not know "device(type='cpu')"; it makes tensors on the CPU anyway.
            node.kwargs = {key: value for key, value in node.kwargs.items() if key not in UNSCRIPTED}
        elif node.target in OF_SIZES:
            node.target = OF_SIZES[node.target]
        elif node.op == "output":
            node.args = tuple(node.args[0])  # one tensor, not a tuple of one
    graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(module, graph)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages of the exporters: warnings of deprecation, and progress."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)

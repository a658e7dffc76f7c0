"""``python -m hiervl doctor``: what is installed, where files are searched, what is wrong, and how to fix it.

Every check is independent, so the report is complete even if much of the installation is broken.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hiervl
from hiervl.utils import compat

HELP = "report versions, devices, data and weights, and what is wrong with them"

OLDEST_PYTHON = (3, 10)

# Module name → pip's name (requirements.txt). All are needed; detectron2 is checked separately.
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "open_clip": "open_clip_torch",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "scipy": "scipy",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "fvcore": "fvcore",
    "pycocotools": "pycocotools",
    "tensorboard": "tensorboard",
    "yaml": "pyyaml",
    "jinja2": "jinja2",
    "tqdm": "tqdm",
    "tabulate": "tabulate",
}
# Optional packages: module name → purpose, pip's names (requirements/*.txt).
OPTIONAL = {
    "gradio": ("serve", "'gradio>=6' 'pillow<13'"),
    "onnxruntime": ("export to ONNX", "onnx onnxscript onnxruntime"),
    "rasterio": ("large TIFFs and GeoTIFFs", "rasterio"),
}
# For packages that read untrusted files: the first release without known vulnerabilities, as in requirements.txt.
OLDEST_SAFE = {"torch": (2, 10), "PIL": (10, 3)}
# Importing these covers everything in Detectron2 that HierVL uses.
DETECTRON2_MODULES = ("detectron2.engine", "detectron2.evaluation", "detectron2.utils.visualizer")

# Folders below the datasets directory; ShapesWorld needs none.
DATASET_FOLDERS = {
    "CamVid": "camvid",
    "Pascal VOC": "VOC2012",
    "COCO": "coco",
    "ADE20K": "ADEChallengeData2016",
    "Cityscapes": "cityscapes",
}
# The CLIPs that HierVL brings: name -> folder.
ASSETS = Path(hiervl.__file__).parent / "assets"
SHIPPED_CLIPS = {"shapesworld": ASSETS / "shapesworld_clip", "imagenet-lite": ASSETS / "imagenet_lite"}
# Smaller than any model: a Git LFS pointer or an interrupted copy in place of the file.
SMALLEST_WEIGHTS_BYTES = 10_000

LABEL_WIDTH = 14
PIP = f"{sys.executable} -m pip"
INSTALL_DETECTRON2 = f"{sys.executable} -m hiervl install-detectron2"


@dataclass
class Report:
    """Prints each finding at once, because imports take seconds. Problems are listed again at the end."""

    problems: list[str] = field(default_factory=list)  # a needed part is broken: exit status 1
    notes: list[str] = field(default_factory=list)  # worth knowing

    def line(self, label: str, text: object) -> None:
        print(f"  {label:<{LABEL_WIDTH}}{text}", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", default="", help="a config: say as well what its encoders need")
    parser.add_argument("--with", dest="deltas", action="append", default=[], metavar="DELTA", help="as of train")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config values")


def run(args: argparse.Namespace) -> int:
    """Print the report; return 1 if something needed is broken."""
    report = Report()
    print("Versions")
    report.line("hiervl", hiervl.__version__)
    check_python(report)
    for module_name, package in PACKAGES.items():
        check_package(report, module_name, package)
    check_detectron2(report)
    print("Optional")
    for module_name, (purpose, packages) in OPTIONAL.items():
        check_optional(report, module_name, purpose, packages)
    print("Devices")
    check_devices(report)
    print("Data")
    check_datasets(report)
    print("Weights")
    check_weights(report)
    if args.config_file:
        print(f"Encoders of {args.config_file}")
        check_encoders(report, args.config_file, args.deltas, args.opts)
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems:
        print(f"problem: {problem}")
    if not report.problems:
        print("Everything needed is in place.")
    return 1 if report.problems else 0


def check_python(report: Report) -> None:
    report.line("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        report.problems.append(
            f"Python {oldest} or newer is needed: remove .venv and run `make .venv PYTHON=python3.11`."
        )


def describe(error: BaseException) -> str:
    """The error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def missing_package(error: BaseException) -> str | None:
    """The package of PACKAGES whose absence caused ``error``, if that is the cause."""
    if isinstance(error, ModuleNotFoundError) and error.name in PACKAGES:
        return error.name
    return None


def check_package(report: Report, module_name: str, package: str) -> None:
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a broken binary package can raise any error
        missing = missing_package(error)
        if missing is None:
            report.line(module_name, "broken")
            report.problems.append(
                f"{module_name} cannot be imported ({describe(error)}): "
                f"reinstall it with `{PIP} install --force-reinstall {package}`."
            )
        elif missing == module_name:
            report.line(module_name, "missing")
            report.problems.append(f"{package} is not installed: run `{PIP} install {package}`.")
        else:  # that package has its own line and problem
            report.line(module_name, f"needs {missing}")
        return
    version = getattr(module, "__version__", None) or installed_version(package)
    report.line(module_name, version)
    safe = OLDEST_SAFE.get(module_name)
    if safe and tuple(map(int, re.findall(r"\d+", version)[:2])) < safe:
        report.notes.append(
            f"{package} {version} has known faults by which a prepared file can run code: do not open files of others, "
            f"or run `{PIP} install --upgrade {package}`."
        )


def installed_version(package: str) -> str:
    """The version that pip reports."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def check_optional(report: Report, module_name: str, purpose: str, packages: str) -> None:
    """A line that says whether the package is there. It is searched, not imported, because imports take long."""
    found = importlib.util.find_spec(module_name) is not None
    report.line(module_name, f"installed ({purpose})" if found else f"{purpose}: `{PIP} install {packages}`")


def check_detectron2(report: Report) -> None:
    directory = compat.detectron2_directory()
    if directory is None:
        report.line("detectron2", "missing")
        report.problems.append(f"Detectron2 is not installed: run `{INSTALL_DETECTRON2}`.")
        return
    version = compat.detectron2_version(directory)
    stand_ins = f"with stand-ins for {', '.join(compat.applied)}" if compat.applied else "without stand-ins"
    try:
        for module_name in DETECTRON2_MODULES:
            importlib.import_module(module_name)
    except Exception as error:
        if missing_package(error):
            report.line("detectron2", f"{version}, needs {missing_package(error)}")
            return
        report.line("detectron2", f"{version}, broken")
        report.problems.append(
            f"Detectron2 {version} cannot be imported ({describe(error)}): "
            f"run `{PIP} uninstall --yes detectron2` and `{INSTALL_DETECTRON2}`."
        )
        return
    report.line("detectron2", f"{version}, {stand_ins}")


def check_devices(report: Report) -> None:
    try:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for index in range(count):
            properties = torch.cuda.get_device_properties(index)
            report.line(f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB")
    except Exception as error:  # torch itself was reported above
        report.line("unknown", f"PyTorch cannot tell ({describe(error)})")
        return
    if count == 0:
        report.line("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads; no CUDA device")
        if Path("/proc/driver/nvidia").exists():
            report.notes.append(
                "An NVIDIA driver is present, but PyTorch sees no GPU: check CUDA_VISIBLE_DEVICES and "
                "install a PyTorch build for the CUDA version that the driver supports."
            )


def datasets_directory() -> Path:
    """The folder where Detectron2, and so HierVL, searches datasets."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def check_datasets(report: Report) -> None:
    directory = datasets_directory()
    is_set = "DETECTRON2_DATASETS" in os.environ
    report.line("looked for in", f"{directory.resolve()} ($DETECTRON2_DATASETS{'' if is_set else ' is not set'})")
    report.line("ShapesWorld", "generated, needs no download")
    for name, folder in DATASET_FOLDERS.items():
        report.line(name, "found" if (directory / folder).is_dir() else f"not there ({folder}/ is missing)")
    if is_set and not directory.is_dir():
        report.notes.append(f"DETECTRON2_DATASETS names {directory}, which is not a directory: correct or unset it.")


def describe_cache(directory: Path) -> str:
    """The folder and the names of the CLIP models in it."""
    return f"{directory} ({', '.join(clip_models(directory)) or 'no CLIP model'})"


def clip_models(directory: Path) -> list[str]:
    if not directory.is_dir():
        return []
    return sorted(entry.name for entry in directory.iterdir() if is_clip_model(entry))


def is_clip_model(entry: Path) -> bool:
    """A repository of the hub with an encoder of open_clip or timm, or a weights file fetched by its URL."""
    name = entry.name.lower()
    return entry.suffix == ".pt" or (name.startswith("models--") and ("clip" in name or "--timm--" in name))


def weights_defect(path: Path) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size < SMALLEST_WEIGHTS_BYTES:
        return f"has only {path.stat().st_size} bytes"
    return None


def check_weights(report: Report) -> None:
    caches = [("url cache", Path("~/.cache/clip").expanduser())]
    try:
        from huggingface_hub.constants import HF_HUB_CACHE  # where open_clip's downloads go
    except ImportError:
        report.line("hub cache", "huggingface_hub is missing")
    else:
        caches.insert(0, ("hub cache", Path(HF_HUB_CACHE)))
    for label, directory in caches:
        report.line(label, describe_cache(directory))
    if not any(clip_models(directory) for _, directory in caches):
        report.notes.append(
            "No CLIP is in the caches: the first training with one that MODEL.CLIP names downloads it (ViT-B/16: "
            f"0.6 GB); {' and '.join(SHIPPED_CLIPS)} come with HierVL."
        )
    for name, folder in SHIPPED_CLIPS.items():
        defect = shipped_defect(folder)
        report.line(name, f"{folder} ({defect or 'found'})")
        if defect is not None:
            report.problems.append(
                f"Of the CLIP '{name}' that HierVL brings, {defect}: restore it with `git checkout -- hiervl/assets`, "
                "or install HierVL again."
            )


def shipped_defect(folder: Path) -> str | None:
    """What is wrong with the first file of a CLIP that is not in order."""
    for file in (f"{folder.name.removesuffix('_clip')}.json", "bpe.txt.gz"):
        if not (folder / file).is_file():
            return f"{file} is missing"
    defect = weights_defect(folder / "weights.safetensors")
    return f"weights.safetensors {defect}" if defect else None


def check_encoders(report: Report, config_file: str, deltas: Sequence[str], opts: Sequence[str]) -> None:
    """What the encoders of a config are, and which of their files are there."""
    try:
        from hiervl.engine import presets, run_config
        from hiervl.modeling.encoder_files import encoder_files
        from hiervl.modeling.encoders import check_clip
        from hiervl.modeling.vision_encoder import check_vision_encoder
        from hiervl.utils.errors import UserError
    except Exception as error:  # the cause was reported above
        report.line("unknown", f"HierVL cannot be imported ({describe(error)})")
        return
    try:
        cfg = run_config.load_config(config_file, opts, deltas)
        run_config.settle_device(cfg)
        run_config.settle_clip(cfg)
        if cfg.DATASET.NAME:  # without a GPU the preset takes another CLIP
            presets.apply_preset(cfg, run_config.register_own_dataset(cfg), show=False)
        check_clip(cfg.MODEL.CLIP.NAME)
        report.line("CLIP", cfg.MODEL.CLIP.NAME)
        if cfg.MODEL.ENCODER.NAME:
            check_vision_encoder(cfg.MODEL.ENCODER.NAME)
            report.line("encoder", cfg.MODEL.ENCODER.NAME)
        for file in encoder_files(cfg):
            report.line(file.label, f"{file.where} ({'missing' if file.defect else 'found'})")
            if file.defect:
                (report.notes if file.is_fetched else report.problems).append(f"{file.key} {file.defect}.")
    except UserError as error:
        report.problems.append(str(error))

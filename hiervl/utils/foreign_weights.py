"""Read weights that other programs have saved, without running code."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from hiervl.utils.errors import UserError

# All names in a pickle of NumPy arrays, from versions 1 and 2 of NumPy.
ARRAYS = {
    (module, name)
    for module, name in (
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    )
}
WRAPPERS = ("model", "state_dict")


def read_foreign_weights(path: str, key: str) -> dict[str, Tensor]:
    """Tensors by name from a .pkl of arrays (Detectron2's model zoo), a .safetensors file, or one of ``torch.save``.

    Args:
        key: the configuration key that names the file, for error messages.

    Raises:
        UserError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{key}: there is no file '{path}'.")
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(path)
        elif file.suffix == ".pkl":
            with file.open("rb") as stream:
                content = _ArraysAlone(stream, encoding="latin1").load()
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        for name in WRAPPERS:
            if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
                content = content[name]
        return {
            name: torch.as_tensor(value) for name, value in content.items() if isinstance(value, (Tensor, np.ndarray))
        }
    except Exception as error:  # there are as many kinds of errors as kinds of damage
        raise UserError(
            f"{key}: '{path}' is not a readable file of weights: it is damaged, of another kind, or carries code, "
            "which is not run."
        ) from error


class _ArraysAlone(pickle.Unpickler):
    """Reads arrays and plain values. Anything else that a pickle names is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name} is not an array")
        return super().find_class(module, name)

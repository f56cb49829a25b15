"""Hub-style folders of one trained part: `config.json` beside `model.safetensors`.

Every way in which such a folder can be wrong (absent, half-downloaded, of another architecture) ends in an
InputError that names the file; nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from usdm.types import InputError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CLASS_KEY = "class"  # in a folder's settings: MODULE.CLASS of a part that is none of this package's usual kinds


class NoInitialValues(TorchFunctionMode):
    """Modules built under it have their memory, and nothing drawn for it: a state is loaded into them next.

    (On the meta device torch would import its compiler to draw them, which takes longer than to import torch.)
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


class StoredConfig(SimpleNamespace):
    """A `config.json` in `transformers`' layout as it stands there: what it does not say has no default."""

    def get_text_config(self) -> StoredConfig:
        """As configurations of `transformers` have it."""
        return self


def read_config(folder: str | Path) -> dict[str, Any]:
    """The folder's configuration. Raises InputError if it is missing or not a JSON object."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a folder with {CONFIG_FILE} and the model's weights")
    return read_object(path, "download or save the model again")


def read_object(path: Path, way_out: str) -> dict[str, Any]:
    """A JSON object. Raises InputError, with `way_out`, if the file is missing or holds none."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {way_out}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); {way_out}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a JSON {type(found).__name__}, an object is needed; {way_out}")
    return found


def class_named(name: object, kind: type[Any], where: Path) -> type[Any]:
    """The subclass of `kind` that a folder's settings name, from any module that Python can import.

    The module is imported; nothing else is called before the class has been found to be one. Raises InputError, with
    the file `where` the name stands, for what cannot be imported or is no such class.
    """
    module, _, attribute = str(name).rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{where}: {CLASS_KEY}={name!r} cannot be imported ({error}); install its package, or put its folder on "
            "PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(f"{where}: {CLASS_KEY}={name!r} is no subclass of {kind.__module__}.{kind.__name__}; name one")
    return found


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """The folder's tensors by name. Raises InputError if the file is missing or cut off."""
    return read_tensors(Path(folder) / WEIGHTS_FILE)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` by name. Raises InputError if the file is missing or cut off."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; download or save the model again")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"{path}: damaged or cut off ({error}); download or save the model again") from error


def fill(module: nn.Module, weights: dict[str, Tensor], folder: str | Path) -> None:
    """Load `weights`, read from `folder`, into `module` in the module's own precision.

    Raises InputError if they are not exactly the module's tensors.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{Path(folder) / WEIGHTS_FILE}: does not fit {CONFIG_FILE} beside it: {error}") from error


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def save_folder(
    folder: str | Path, config: dict[str, Any], module: nn.Module, dtype: torch.dtype | None = None
) -> None:
    """Write both files. `dtype` (for example torch.float16) halves the storage; None keeps it as it is."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: _stored(tensor, dtype) for name, tensor in module.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    make_readable(folder)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def make_readable(folder: Path) -> None:
    """Give a folder's weights the mode that the umask gives new files: safetensors makes private ones."""
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~umask)

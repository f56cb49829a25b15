"""Centroids of units: read from a file, named by a hash, and the nearest one found."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from usdm.types import InputError

PICKLED = (".km", ".pkl", ".pickle", ".joblib", ".bin")
EXPORT = "numpy.save('centroids.npy', joblib.load('{name}').cluster_centers_)"


def read_centroids(path: str | Path) -> Tensor:
    """(K, D) float32 from `.npy`, `.pt` (tensors only) or `.safetensors`.

    A file of several tensors must call the centroids `centroids`.

    Raises:
        InputError: the file is missing, damaged, pickled, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give the centroids' file, or fit them with `usdm fit_kmeans`.")
    if path.suffix in PICKLED:
        raise InputError(
            f"{path} is a pickled model, which can run any code when it is opened, and is not opened. Where you trust "
            f"it, export the centroids once: {EXPORT.format(name=path.name)}"
        )
    if path.suffix not in _READERS:
        raise InputError(f"{path}: centroids are read from {', '.join(_READERS)}, not from '{path.suffix}' files.")
    try:
        centroids = _READERS[path.suffix](path)
    except (ValueError, EOFError, OSError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is truncated, or holds more than numbers, and is not loaded: {error}") from error
    if not isinstance(centroids, Tensor) or centroids.dim() != 2 or not torch.isfinite(centroids).all():
        found = tuple(centroids.shape) if isinstance(centroids, Tensor) else type(centroids).__name__
        raise InputError(f"{path} must hold finite centroids of shape (K, D), but holds {found}.")
    return centroids.float()


def centroid_hash(centroids: Tensor) -> str:
    """Names these very centroids: unit corpora and language models are bound to it."""
    return hashlib.sha256(centroids.cpu().numpy().tobytes()).hexdigest()[:16]


def nearest_centroid(features: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest centroid in squared Euclidean distance: (..., D) and (K, D) -> (...) int64."""
    return (centroids.pow(2).sum(1) - 2 * features @ centroids.T).argmin(-1)


def _only(stored: object) -> object:
    """The tensor itself, or the one tensor or the `centroids` of a dictionary."""
    if isinstance(stored, dict):
        return stored.get("centroids", next(iter(stored.values())) if len(stored) == 1 else stored)
    return stored


_READERS = {
    ".npy": lambda path: torch.from_numpy(np.load(path, allow_pickle=False)),
    ".pt": lambda path: _only(torch.load(path, weights_only=True, map_location="cpu")),
    ".safetensors": lambda path: _only(load_file(path)),
}

"""What is read of each part, and how it is had from the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError

from usdm.runs import split_revision
from usdm.types import InputError

HUB_TIMEOUT = 5.0  # seconds; huggingface_hub itself waits for ever
SHARDS_FILE = "model.safetensors.index.json"
SHARDS = "*-of-*.safetensors"

# Hub repositories hold more (optimiser states, the same weights in other formats).
NEEDED_FILES = {
    "units": ("*.json", "*.safetensors"),
    "llm": ("*.json", "*.safetensors"),
    "decoder": ("config.json", "model.safetensors", "unit_source.json", "units.json"),  # the last of a codec
    "vocoder": ("config.json", "model.safetensors", "bigvgan_generator.pt"),
    "scales": ("*.json", "*.safetensors"),
}
WEIGHTS = ("*.safetensors", "bigvgan_generator.pt")


class Hub:
    """The hub, and its cache on this machine. Once it cannot be reached it is not asked again."""

    def __init__(self, silence: str | None = None) -> None:
        self.silence = silence  # why it does not answer

    @property
    def cache_folder(self) -> str:
        return constants.HF_HUB_CACHE

    def cached(self, part: str, name: str) -> Path | None:
        """The snapshot of a repository in the cache, if all that `part` needs is there."""
        try:
            folder = Path(_snapshot(part, name, local_files_only=True))
        except (HTTPError, HFValidationError, OSError):
            return None
        return folder if is_complete(folder) else None

    def size(self, part: str, name: str) -> int:
        """Bytes of what `part` needs of a repository. Raises InputError if it cannot be had."""
        if self.silence is None:
            try:
                repository, revision = split_revision(name)
                found = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=HUB_TIMEOUT)
                files = found.siblings or []
                return sum(file.size or 0 for file in files if matches(file.rfilename, NEEDED_FILES[part]))
            except (HTTPError, HFValidationError, OSError) as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split("\n")[0].split())
                if getattr(error, "response", None) is not None:  # it answered, and may have other repositories
                    raise InputError(reason) from error
                self.silence = reason
        raise InputError(self.silence)


def is_complete(folder: Path) -> bool:
    """Whether a download was finished: weights are there, and every shard that their index names."""
    index = folder / SHARDS_FILE
    if index.is_file():
        try:
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):  # cut off, or no index
            return False
        return all((folder / shard).is_file() for shard in shards)
    names = [path.name for path in folder.iterdir()]
    return any(matches(name, WEIGHTS) and not matches(name, (SHARDS,)) for name in names)  # a shard needs its index


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _snapshot(part: str, name: str, local_files_only: bool = False) -> str:
    repository, revision = split_revision(name)
    patterns = list(NEEDED_FILES[part])
    return snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=local_files_only)


def download(part: str, name: str) -> Path:
    """Fetch what the part needs. Raises InputError if the hub breaks off."""
    try:
        return Path(_snapshot(part, name))
    except (HTTPError, OSError) as error:
        raise InputError(
            f"{part}: {name} was not downloaded to the end ({error}); the same command goes on from there"
        ) from error

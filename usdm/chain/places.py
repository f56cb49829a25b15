"""Where the parts of a system lie: in the package, in a folder, in the hub's cache, or still on the hub.

One rule for every name, a folder's as well as a hub repository's: it is looked for as a folder, then under the
folder that the variable USDM_MODELS names, and if it reads like a hub name, in the hub's cache and on the hub.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError

from usdm.types import InputError

PART_NAMES = ("units", "llm", "decoder", "vocoder")
EMBEDDED_MODELS = Path(__file__).resolve().parents[1] / "models"
MODELS_VARIABLE = "USDM_MODELS"
HUB_TIMEOUT = 5.0  # seconds; huggingface_hub itself waits for ever
SHARDS_FILE = "model.safetensors.index.json"

# What is read of each part: hub repositories hold more (optimiser states, the same weights in other formats).
NEEDED_FILES = {
    "units": ("*.json", "*.safetensors"),
    "llm": ("*.json", "*.safetensors"),
    "decoder": ("config.json", "model.safetensors", "unit_source.json"),
    "vocoder": ("config.json", "model.safetensors", "bigvgan_generator.pt"),
}
WEIGHTS = ("*.safetensors", "bigvgan_generator.pt")


@dataclass(frozen=True)
class PartPlace:
    """One part, before anything of it is loaded or downloaded."""

    part: str
    name: str  # as it was given
    folder: Path | None  # None: not on this machine
    cached: bool  # `folder` is the hub's cache
    looked_for: tuple[str, ...]  # in this order
    hub_bytes: int | None  # to download; None where nothing is, or where the hub was not asked or did not answer

    @property
    def missing(self) -> bool:
        """Neither here nor, as far as the hub answered, to be had there."""
        return self.folder is None and self.hub_bytes is None


class Hub:
    """The Hugging Face hub. Once it cannot be reached it is not asked again."""

    def __init__(self) -> None:
        self.silence: str | None = None  # why it does not answer

    def cached(self, part: str, name: str) -> Path | None:
        """The snapshot of a repository in the cache, if all that `part` needs is there."""
        try:
            folder = Path(snapshot_download(name, allow_patterns=list(NEEDED_FILES[part]), local_files_only=True))
        except (HTTPError, HFValidationError, OSError):
            return None
        return folder if is_complete(folder) else None

    def size(self, part: str, name: str) -> int:
        """Bytes of what `part` needs of a repository. Raises InputError if it cannot be had."""
        if self.silence is None:
            try:
                files = HfApi().model_info(name, files_metadata=True, timeout=HUB_TIMEOUT).siblings or []
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
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((folder / shard).is_file() for shard in shards)
    return any(matches(path.name, WEIGHTS) for path in folder.iterdir())


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def is_hub_name(name: str | Path) -> bool:
    """Whether it reads like OWNER/REPOSITORY."""
    return isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~"))


def local_folders(name: str | Path) -> list[Path]:
    """Where a name is looked for on this machine, in this order."""
    path = Path(name).expanduser()
    models = os.environ.get(MODELS_VARIABLE)
    return [path.absolute(), *([Path(models).expanduser().absolute() / path] if models else [])]


def locate_parts(places: Mapping[str, str | Path]) -> dict[str, PartPlace]:
    """Look for every part. Nothing is downloaded; the hub is asked for sizes of what is not here."""
    hub = Hub()
    return {part: locate(part, name, hub) for part, name in places.items()}


def locate(part: str, name: str | Path, hub: Hub) -> PartPlace:
    """One part, looked for as the module's rule says."""
    folders = local_folders(name)
    looked_for = [str(folder) for folder in folders]
    for folder in folders:
        if folder.is_dir():
            return PartPlace(part, str(name), folder, False, tuple(looked_for), None)
    if not is_hub_name(name):
        return PartPlace(part, str(name), None, False, tuple(looked_for), None)
    looked_for.append(f"the hub's cache {constants.HF_HUB_CACHE}")
    if snapshot := hub.cached(part, str(name)):
        return PartPlace(part, str(name), snapshot, True, tuple(looked_for), None)
    size = None
    try:
        size = hub.size(part, str(name))
    except InputError as error:
        looked_for.append(f"the hub ({error})")
    return PartPlace(part, str(name), None, False, tuple(looked_for), size)


def find_parts(places: Mapping[str, str | Path]) -> dict[str, Path]:
    """A folder for each part, downloaded from the hub where it is not on this machine.

    Raises one InputError that lists every part that cannot be had, before any is downloaded: where it was looked
    for, and the way out.
    """
    located = locate_parts(places)
    if missing := [place for place in located.values() if place.missing]:
        raise InputError(missing_message(missing, len(located)))
    return {part: place.folder or download(place) for part, place in located.items()}


def download(place: PartPlace) -> Path:
    """Fetch what the part needs. Raises InputError if the hub breaks off."""
    try:
        return Path(snapshot_download(place.name, allow_patterns=list(NEEDED_FILES[place.part])))
    except (HTTPError, OSError) as error:
        raise InputError(
            f"{place.part}: {place.name} was not downloaded to the end ({error}); the same command goes on from there"
        ) from error


def missing_message(missing: list[PartPlace], total: int) -> str:
    """What is missing, where each was looked for, and the ways out."""
    lines = [f"{len(missing)} of {total} parts are missing:"]
    for place in missing:
        lines.append(f"  {place.part}: {place.name} is not at {', '.join(place.looked_for)}")
        lines.append(f"    if you have a copy elsewhere: model.{place.part}=FOLDER (in Python, {place.part}=FOLDER)")
        if place.part == "units":
            lines.append(
                "    it is made once from the published files: usdm convert_units checkpoint=xlsr2_1b_v2.pt "
                f"centroids=kmeans_10k.npy output_dir={place.looked_for[0]}"
            )
    if names := ", ".join(f"FOLDER/{place.name}" for place in missing if not Path(place.name).is_absolute()):
        lines.append(f"  if copies of all lie in one folder: {MODELS_VARIABLE}=FOLDER in the environment, with {names}")
    return "\n".join(lines)


def bundle_folder(name: str | Path) -> Path:
    """The folder of an embedded model, or of a local bundle. Raises InputError that lists what is missing."""
    if str(name) in embedded_models():
        return EMBEDDED_MODELS / str(name)
    folders = local_folders(name)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise InputError(
            f"{name}: neither an embedded model ({', '.join(embedded_models()) or 'none is'} in {EMBEDDED_MODELS}) "
            f"nor a folder ({', '.join(map(str, folders))}); give a folder with {', '.join(PART_NAMES)}, or each "
            "part's own folder or hub name"
        )
    if missing := [str(folder / part) for part in PART_NAMES if not (folder / part).is_dir()]:
        raise InputError(f"{name}: no folder {', '.join(missing)}; a bundle holds {', '.join(PART_NAMES)}")
    return folder


def bundle_places(name: str | Path, given: Mapping[str, str | Path | None] | None = None) -> dict[str, str | Path]:
    """Where each part of a bundle is to be looked for; a part that is `given` takes the place of its own.

    Raises as `bundle_folder` does.
    """
    folder, replaced = bundle_folder(name), given or {}
    return {part: replaced.get(part) or folder / part for part in PART_NAMES}


def embedded_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.name for path in EMBEDDED_MODELS.glob("*") if (path / "llm").is_dir())

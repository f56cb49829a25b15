"""Where the parts of a system lie: in the package, in a folder, in the hub's cache, or still on the hub.

One rule for every name, a folder's as well as a hub repository's: it is looked for as a folder, then under the
folder that the variable USDM_MODELS names, and if it reads like a hub name, in the hub's cache and on the hub.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from usdm.runs import split_revision
from usdm.types import InputError
from usdm.unit_to_speech import needs_vocoder

if TYPE_CHECKING:
    from usdm.chain.hub import Hub

PART_NAMES = ("units", "llm", "decoder", "vocoder")  # the last only where the decoder makes mels
EMBEDDED_MODELS = Path(__file__).resolve().parents[1] / "models"
MODELS_VARIABLE = "USDM_MODELS"


@dataclass(frozen=True)
class PartLocation:
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


def is_hub_name(name: str | Path) -> bool:
    """Whether it reads like OWNER/REPOSITORY, or OWNER/REPOSITORY@REVISION."""
    if not isinstance(name, str) or name.startswith((".", "/", "~")):
        return False
    return split_revision(name)[0].count("/") == 1


def local_folders(name: str | Path) -> list[Path]:
    """Where a name is looked for on this machine, in this order."""
    path = Path(name).expanduser()
    models = os.environ.get(MODELS_VARIABLE)
    return [path.absolute(), *([Path(models).expanduser().absolute() / path] if models else [])]


def locate_parts(places: Mapping[str, str | Path], hub: Hub | None = None) -> dict[str, PartLocation]:
    """Look for every part. Nothing is downloaded; the hub, or `hub`, is asked for sizes of what is not here."""
    located = {part: locate_here(part, name) for part, name in places.items()}
    if away := [place for place in located.values() if place.folder is None and is_hub_name(places[place.part])]:
        from usdm.chain.hub import Hub  # its package takes long to import, and most parts are local

        asked = hub or Hub()
        located |= {place.part: locate_on_hub(place, asked) for place in away}
    return located


def locate_here(part: str, name: str | Path) -> PartLocation:
    """One part, looked for on this machine."""
    folders = local_folders(name)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    return PartLocation(part, str(name), folder, False, tuple(map(str, folders)), None)


def locate_on_hub(place: PartLocation, hub: Hub) -> PartLocation:
    """A part that has no folder of its own here."""
    looked_for = (*place.looked_for, f"the hub's cache {hub.cache_folder}")
    if snapshot := hub.cached(place.part, place.name):
        return replace(place, folder=snapshot, cached=True, looked_for=looked_for)
    try:
        return replace(place, hub_bytes=hub.size(place.part, place.name), looked_for=looked_for)
    except InputError as error:
        return replace(place, looked_for=(*looked_for, f"the hub ({error})"))


def find_parts(places: Mapping[str, str | Path]) -> dict[str, Path]:
    """A folder for each part, downloaded from the hub where it is not on this machine.

    Raises one InputError that lists every part that cannot be had, before any is downloaded: where it was looked
    for, and the way out.
    """
    located = locate_parts(places)
    if missing := [place for place in located.values() if place.missing]:
        raise InputError(missing_message(missing, len(located)))
    return {part: place.folder or fetched(place) for part, place in located.items()}


def fetched(place: PartLocation) -> Path:
    """A part from the hub. Raises InputError if that breaks off."""
    from usdm.chain.hub import download

    return download(place.part, place.name)


def missing_message(missing: list[PartLocation], total: int) -> str:
    """What is missing, where each was looked for, and the ways out."""
    lines = [f"{len(missing)} of {total} parts are missing:"]
    for place in missing:
        elsewhere = ", ".join(path for path in place.looked_for if path != place.name)
        lines.append(f"  {place.part}: {place.name} is not {f'at {elsewhere}' if elsewhere else 'there'}")
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
    has_mels = not (folder / "decoder").is_dir() or needs_vocoder(folder / "decoder")
    wanted = [part for part in PART_NAMES if part != "vocoder" or has_mels]
    if missing := [str(folder / part) for part in wanted if not (folder / part).is_dir()]:
        raise InputError(f"{name}: no folder {', '.join(missing)}; a bundle holds {', '.join(PART_NAMES)}")
    return folder


def bundle_locations(name: str | Path, given: Mapping[str, str | Path | None] | None = None) -> dict[str, str | Path]:
    """Where each part of a bundle is to be looked for; a part that is `given` takes the place of its own.

    There is no vocoder for a decoder that makes sound by itself, unless one is given. Raises as `bundle_folder` does.
    """
    folder, replaced = bundle_folder(name), given or {}
    places = {part: replaced.get(part) or folder / part for part in PART_NAMES}
    decoder = locate_here("decoder", places["decoder"]).folder
    if replaced.get("vocoder") is None and decoder is not None and not needs_vocoder(decoder):
        del places["vocoder"]
    return places


def embedded_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.name for path in EMBEDDED_MODELS.glob("*") if (path / "llm").is_dir())

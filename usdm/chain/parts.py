"""The four parts of a system: found, loaded, and held against each other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn
from transformers import PreTrainedModel

from usdm.decoder import UnitDecoder
from usdm.lm import check_model, load_model
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings
from usdm.types import InputError
from usdm.units import UnitExtractor
from usdm.vocoder import Vocoder, load_vocoder

PART_NAMES = ("units", "llm", "decoder", "vocoder")
EMBEDDED_MODELS = Path(__file__).resolve().parents[1] / "models"
HASHED_AT_ONCE = 1 << 22  # bytes


@dataclass(frozen=True)
class Parts:
    """A whole system. Raises InputError at construction if two parts are not made for each other."""

    units: UnitExtractor
    llm: PreTrainedModel
    template: DialogTemplate
    decoder: UnitDecoder
    vocoder: Vocoder

    def __post_init__(self) -> None:
        vocabulary = self.template.vocabulary
        check_model(self.llm, vocabulary)
        k = self.units.num_units
        _agree("number of units", {"units": k, "llm": vocabulary.num_units, "decoder": self.decoder.num_units})
        _agree("unit rate (Hz)", {"units": self.units.unit_rate, "decoder": self.decoder.unit_rate})
        mine, theirs = asdict(self.decoder.mel), asdict(self.vocoder.mel)
        for setting in mine:
            _agree(f"mel setting {setting}", {"decoder": mine[setting], "vocoder": theirs[setting]})


def _agree(fact: str, values: Mapping[str, Any]) -> None:
    if len(set(values.values())) > 1:
        sides = ", ".join(f"{part} has {value}" for part, value in values.items())
        raise InputError(f"the parts disagree on the {fact}: {sides}; take parts that were trained together")


def load_parts(folders: Mapping[str, Path], device: str | torch.device, dtype: torch.dtype | None) -> Parts:
    """`dtype` is the language model's (see `load_model`). Raises InputError if a part cannot be read."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={device}: torch {torch.__version__} finds no CUDA device here; use device=cpu")
    vocabulary = SpeechTextVocabulary.from_pretrained(folders["llm"])
    vocoder = load_vocoder(folders["vocoder"])
    if isinstance(vocoder, nn.Module):
        vocoder.to(device)
    return Parts(
        units=UnitExtractor.from_pretrained(folders["units"]).to(device),
        llm=load_model(folders["llm"], device, dtype),
        template=DialogTemplate(vocabulary, TemplateSettings.load(folders["llm"])),
        decoder=UnitDecoder.from_pretrained(folders["decoder"]).to(device),
        vocoder=vocoder,
    )


def bundle_folder(name: str | Path) -> Path:
    """The folder of an embedded model, or of a local bundle. Raises InputError that lists what is missing."""
    embedded = EMBEDDED_MODELS / str(name)
    if str(name) in embedded_models():
        return embedded
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(
            f"{name}: neither an embedded model ({', '.join(embedded_models()) or 'none is'} in "
            f"{EMBEDDED_MODELS}) nor a folder ({folder.absolute()}); give a folder with {', '.join(PART_NAMES)}, "
            "or each part's own folder or hub name"
        )
    missing = [str(folder / part) for part in PART_NAMES if not (folder / part).is_dir()]
    if missing:
        raise InputError(f"{name}: no folder {', '.join(missing)}; a bundle holds {', '.join(PART_NAMES)}")
    return folder


def embedded_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.name for path in EMBEDDED_MODELS.glob("*") if (path / "llm").is_dir())


def find_parts(places: Mapping[str, str | Path]) -> dict[str, Path]:
    """A folder for each part, given as a local folder or a hub name, downloaded where it is not cached.

    Raises one InputError that lists every part that cannot be had, where it was looked for and the way out.
    """
    found: dict[str, Path] = {}
    missing: list[str] = []
    for part, place in places.items():
        try:
            found[part] = part_folder(place)
        except InputError as error:
            missing.append(f"  {part}: {error}; give a local copy as {part}=FOLDER")
    if missing:
        raise InputError("\n".join([f"{len(missing)} of {len(places)} parts are missing:", *missing]))
    return found


def part_folder(place: str | Path) -> Path:
    """A local folder as it is; otherwise a snapshot of the hub repository of that name."""
    if Path(place).is_dir():
        return Path(place)
    looked = f"{place} is no folder (looked for {Path(place).absolute()})"
    if isinstance(place, Path) or place.count("/") != 1 or place.startswith((".", "/", "~")):
        raise InputError(looked)
    try:
        return Path(snapshot_download(place))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{looked}, and cannot be had from the hub ({reason})") from error


def fingerprint(folders: Mapping[str, Path]) -> str:
    """Digest of all files of all parts."""
    digest = hashlib.sha256()
    for part, folder in sorted(folders.items()):
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"):
            digest.update(f"{part}/{path.relative_to(folder)}\n".encode())
            with path.open("rb") as file:
                while block := file.read(HASHED_AT_ONCE):
                    digest.update(block)
    return digest.hexdigest()[:16]

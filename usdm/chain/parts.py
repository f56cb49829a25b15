"""The four parts of a system: loaded, and held against each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from usdm.chain.options import LoadOptions
from usdm.decoder import UnitDecoder
from usdm.lm import LanguageModel, check_model, count_parameters, load_for_generation
from usdm.runs import content_digest, digest
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings
from usdm.types import InputError
from usdm.units import UnitExtractor
from usdm.vocoder import Vocoder, load_vocoder

SOURCE_FILE = "unit_source.json"


@dataclass(frozen=True)
class Parts:
    """A whole system. Raises InputError at construction if two parts are not made for each other."""

    units: UnitExtractor
    llm: LanguageModel
    template: DialogTemplate
    decoder: UnitDecoder
    vocoder: Vocoder

    def __post_init__(self) -> None:
        check_agreement(self.units, self.template.vocabulary, self.decoder, self.vocoder)
        check_model(self.llm, self.template.vocabulary)


def check_agreement(
    units: UnitExtractor, vocabulary: SpeechTextVocabulary, decoder: UnitDecoder, vocoder: Vocoder
) -> None:
    """Raises InputError that names both sides if the parts do not speak of the same units, rate and mels."""
    _agree("number of units", units=units.num_units, llm=vocabulary.num_units, decoder=decoder.num_units)
    _agree("unit rate (Hz)", units=units.unit_rate, decoder=decoder.unit_rate)
    mine, theirs = asdict(decoder.mel), asdict(vocoder.mel)
    for setting in mine:
        _agree(f"mel setting {setting}", decoder=mine[setting], vocoder=theirs[setting])


def _agree(fact: str, **values: Any) -> None:
    if len(set(values.values())) > 1:
        sides = ", ".join(f"{part} has {value}" for part, value in values.items())
        raise InputError(f"the parts disagree on the {fact}: {sides}; take parts that were trained together")


def check_unit_source(folder: Path, units: UnitExtractor) -> None:
    """Raises InputError if a part was trained on other units, from another layer say, of the same number.

    What is trained here says so in `unit_source.json`; published checkpoints say nothing.
    """
    path = folder / SOURCE_FILE
    if not path.is_file():
        return
    try:
        known = json.loads(path.read_bytes())["centroid_hash"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: does not say which units it was trained on ({error!r}); copy it again") from error
    if known != units.centroid_hash:
        raise InputError(
            f"{path}: trained on the units of centroids {known}, but the unit extractor has {units.centroid_hash} "
            f"(layer {units.settings.layer}); take the extractor that it was trained with"
        )


def load_parts(folders: Mapping[str, Path], options: LoadOptions = LoadOptions()) -> Parts:  # noqa: B008 (frozen)
    """A folder for each part. Raises InputError if one cannot be read, or is not made for the rest."""
    options = options.settled(count_parameters(folders["llm"]))
    options.check()
    vocabulary = SpeechTextVocabulary.from_pretrained(folders["llm"])
    template = DialogTemplate(vocabulary, TemplateSettings.load(folders["llm"]))
    units = UnitExtractor.from_pretrained(folders["units"])
    decoder = UnitDecoder.from_pretrained(folders["decoder"], dtype=options.decoder_dtype)
    vocoder = load_vocoder(folders["vocoder"], use_cuda_kernel=options.vocoder_cuda_kernel)
    # All that can be wrong is told before the one part that takes minutes to load.
    check_agreement(units, vocabulary, decoder, vocoder)
    for part in ("llm", "decoder"):
        check_unit_source(folders[part], units)
    if isinstance(vocoder, nn.Module):
        vocoder.to(options.place)
    llm = load_for_generation(
        folders["llm"],
        options.place,
        options.dtype,
        attention=options.attention,
        device_map=options.device_map,
        quantization=options.quantization,
    )
    return Parts(units.to(options.place), llm, template, decoder.to(options.place), vocoder)


def fingerprint(folders: Mapping[str, Path]) -> str:
    """Digest of the contents of all parts."""
    return digest({part: content_digest(folder) for part, folder in folders.items()})

"""The four parts of a system: loaded, and held against each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usdm.chain.options import LoadOptions
from usdm.lm import LanguageModel, check_model, count_parameters, load_for_generation
from usdm.runs import content_digest, digest
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings, find_normaliser
from usdm.tokens.layout import TEMPLATE_FILE
from usdm.types import InputError
from usdm.unit_to_speech import FlowMatchingToSpeech, UnitToSpeech, load_unit_to_speech
from usdm.units import UnitTokenizer, load_unit_tokenizer

SOURCE_FILE = "unit_source.json"


@dataclass(frozen=True)
class Components:
    """A whole system. Raises InputError at construction if two parts are not made for each other."""

    units: UnitTokenizer
    llm: LanguageModel
    template: DialogTemplate
    speech: UnitToSpeech

    def __post_init__(self) -> None:
        check_agreement(self.units, self.template.vocabulary, self.speech)
        check_model(self.llm, self.template.vocabulary)

    @property
    def flow_matching(self) -> FlowMatchingToSpeech:
        """The speech part, for what looks into it. Raises InputError if it is of another kind."""
        if isinstance(self.speech, FlowMatchingToSpeech):
            return self.speech
        raise InputError(
            f"this model makes sound by {type(self.speech).__name__}: what is asked for here is about a flow matching "
            "decoder and its vocoder; take a model that has them"
        )


def check_agreement(units: UnitTokenizer, vocabulary: SpeechTextVocabulary, speech: UnitToSpeech) -> None:
    """Raises InputError that names both sides if the parts do not speak of the same units and rate."""
    _agree("number of units", units=units.num_units, llm=vocabulary.num_units, decoder=speech.num_units)
    _agree("unit rate (Hz)", units=units.unit_rate, decoder=speech.unit_rate)


def _agree(fact: str, **values: Any) -> None:
    if len(set(values.values())) > 1:
        sides = ", ".join(f"{part} has {value}" for part, value in values.items())
        raise InputError(f"the parts disagree on the {fact}: {sides}; take parts that were trained together")


def check_unit_source(folder: Path, units: UnitTokenizer) -> None:
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
    if known != units.identity:
        raise InputError(
            f"{path}: trained on the units of {known}, but the unit tokenizer is {units.identity}; take the tokenizer "
            "that it was trained with"
        )


def load_components(
    folders: Mapping[str, Path],
    options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
    normaliser: str | None = None,
) -> Components:
    """A folder for each part, and the name of the bundle's text normaliser.

    There may be `scales` of a task beside the parts (`usdm.lm.task_scales`), with the template that it was trained in.
    Raises InputError if a part cannot be read, or is not made for the rest.
    """
    options = options.settled(count_parameters(folders["llm"]))
    options.check()
    vocabulary = SpeechTextVocabulary.from_pretrained(folders["llm"])
    scales = folders.get("scales")
    worded = scales if scales is not None and (scales / TEMPLATE_FILE).is_file() else folders["llm"]
    template = DialogTemplate(vocabulary, TemplateSettings.load(worded), find_normaliser(normaliser))
    units = load_unit_tokenizer(folders["units"])
    speech = load_unit_to_speech(
        folders["decoder"],
        folders.get("vocoder"),
        dtype=options.decoder_dtype,
        use_cuda_kernel=options.vocoder_cuda_kernel,
    )
    # All that can be wrong is told before the one part that takes minutes to load.
    check_agreement(units, vocabulary, speech)
    for part in ("llm", "decoder"):
        check_unit_source(folders[part], units)
    llm = load_for_generation(
        folders["llm"],
        options.place,
        options.dtype,
        attention=options.attention,
        device_map=options.device_map,
        quantization=options.quantization,
        scales=scales,
    )
    return Components(units.to(options.place), llm, template, speech.to(options.place).eval())


def fingerprint(folders: Mapping[str, Path]) -> str:
    """Digest of the contents of all parts."""
    return digest({part: content_digest(folder) for part, folder in folders.items()})

"""Multiple choice as a turn of a dialog, heard as units or typed: which option the model finds likeliest as its reply.

`letters`: question and options are asked in one turn, and the probability at the first id of the reply is shared out
among the four letters, all other ids masked. `options`: the question alone is asked, and each option is read as the
reply; the mean of the log-probabilities of its ids, the one that ends it included, decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from usdm.audio import read_audio, resample
from usdm.chain import SpokenDialogPipeline
from usdm.chain.sound import speech
from usdm.chain.stages import LanguageModelChain, Question
from usdm.knowledge.items import LETTERS, ChoiceItem
from usdm.lm import ContinuousBatch, log_probabilities
from usdm.runs import KeptAnswers
from usdm.tokens.spoken_text import written_in_english
from usdm.types import InputError, Waveform

Hears = Literal["units", "text"]
Chooses = Literal["letters", "options"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Choice:
    """What the model makes of one item."""

    scores: tuple[float, ...]  # log-probability of each option: of its letter, or the mean of its ids
    heard: str | None  # the transcript it went on from; None where it was typed, or the chain writes none

    @property
    def chosen(self) -> int:
        return max(range(len(self.scores)), key=self.scores.__getitem__)


def asked_text(item: ChoiceItem, chooses: Chooses) -> str:
    """What is said or typed."""
    if chooses == "options":
        return item.question
    options = " ".join(f"{letter.lower()}, {option}." for letter, option in zip(LETTERS, item.options, strict=True))
    return f"{item.question} {options}"


def choose(
    pipeline: SpokenDialogPipeline,
    items: Sequence[ChoiceItem],
    kept_in: Path,
    *,
    hears: Hears,
    chooses: Chooses,
    speak: Callable[[str], Waveform] | None = None,
    batch: int = 16,
    progress: Progress = lambda done, total: None,
) -> list[Choice]:
    """Of every item, in order; what was asked of this model before comes from `kept_in`.

    Args:
        kept_in: of one voice alone.
        speak: says what there is no recording of, where `hears` is units; in English.
        batch: items at once.

    Raises:
        InputError: the model's letters are not single ids of their own, an item has no sound and there is no voice, or
            none that could say all of it, or the chain writes no text.
    """
    chain = LanguageModelChain(pipeline.parts.llm, pipeline.parts.template)
    if chooses == "letters":
        letter_ids(chain)  # complains before any work
    if hears == "units":
        _check_sayable([item for item in items if _recording(item, chooses) is None], chooses, speak is not None)
    found: list[Choice] = []
    with KeptAnswers(kept_in) as kept:
        for start in range(0, len(items), batch):
            group = items[start : start + batch]
            asked = [_asked(pipeline, item, hears, chooses) for item in group]
            new = {place: item for place, item in enumerate(group) if not kept.has(asked[place])}
            made = _choices(pipeline, chain, list(new.values()), hears, chooses, speak)
            for place, choice in zip(new, made, strict=True):
                kept.keep(asked[place], [list(choice.scores), choice.heard])
            answers = [kept.get(key, list) for key in asked]
            found += [Choice(tuple(scores), heard) for scores, heard in answers]
            progress(len(found), len(items))
    return found


def _check_sayable(silent: Sequence[ChoiceItem], chooses: Chooses, has_voice: bool) -> None:
    """Raises InputError for items without a recording where nobody speaks, or speaks what they are written in."""
    for item in silent:
        if not has_voice:
            raise InputError(f"{item.id}: no recording of what is asked; give speaker=flite-slt, or hears=text")
        try:
            written_in_english(asked_text(item, chooses))
        except InputError as error:
            raise InputError(
                f"{item.id}: voices speak English here ({error}); give recordings of questions (a column audio, with "
                "chooses=options), or hears=text"
            ) from error


def letter_ids(chain: LanguageModelChain) -> list[int]:
    """Of the letters where a reply begins. Raises InputError unless each is one id, and no two are the same."""
    written = [chain.template.reply_ids(letter) for letter in LETTERS]
    if any(len(ids) != 1 for ids in written) or len({ids[0] for ids in written}) < len(LETTERS):
        told = ", ".join(f"{letter} {ids}" for letter, ids in zip(LETTERS, written, strict=True))
        raise InputError(f"chooses=letters: this tokenizer writes {told}, not an id for each letter; take options")
    return [ids[0] for ids in written]


def _asked(pipeline: SpokenDialogPipeline, item: ChoiceItem, hears: Hears, chooses: Chooses) -> list[Any]:
    """All that the answer depends on, but for the voice, which has a file of its own."""
    recording = _recording(item, chooses) if hears == "units" else None
    sound = None if recording is None else hashlib.sha256(recording.read_bytes()).hexdigest()
    model = [pipeline.fingerprint, pipeline.precision["llm"]]
    return [*model, hears, chooses, asked_text(item, chooses), list(item.options), sound]


def _recording(item: ChoiceItem, chooses: Chooses) -> Path | None:
    """Of the question alone: its options are not in it."""
    return item.audio if chooses == "options" else None


def _choices(
    pipeline: SpokenDialogPipeline,
    chain: LanguageModelChain,
    items: Sequence[ChoiceItem],
    hears: Hears,
    chooses: Chooses,
    speak: Callable[[str], Waveform] | None,
) -> list[Choice]:
    if not items:
        return []
    questions = [Question(text=asked_text(item, chooses)) for item in items]
    if hears == "units":
        questions = _heard(pipeline, chain, [_sound(item, chooses, speak) for item in items])
    sequences, firsts = [], []
    for item, question in zip(items, questions, strict=True):
        prompt = chain.prompt(question, speak=False)
        for ids in _option_ids(chain, item, chooses):
            sequences.append([*prompt, *ids])
            firsts.append(len(prompt))
    allowed = chain.template.allowed("respond", None if hears == "units" else "typed")
    if chooses == "letters":
        allowed = torch.zeros_like(allowed)
        allowed[letter_ids(chain)] = True
    scored = [float(each.double().mean()) for each in log_probabilities(chain.model, sequences, allowed, firsts)]
    count = len(LETTERS)
    return [
        Choice(tuple(scored[place * count : (place + 1) * count]), question.text if hears == "units" else None)
        for place, question in enumerate(questions)
    ]


def _option_ids(chain: LanguageModelChain, item: ChoiceItem, chooses: Chooses) -> list[list[int]]:
    if chooses == "letters":
        return [[id_] for id_ in letter_ids(chain)]
    stop = chain.template.stop_id("respond")
    return [[*chain.template.reply_ids(option), stop] for option in item.options]


def _sound(item: ChoiceItem, chooses: Chooses, speak: Callable[[str], Waveform] | None) -> Waveform:
    recording = _recording(item, chooses)
    if recording is not None:
        return read_audio(recording)
    assert speak is not None
    return speak(asked_text(item, chooses))


def _heard(pipeline: SpokenDialogPipeline, chain: LanguageModelChain, sounds: Sequence[Waveform]) -> list[Question]:
    """Questions as units, with the transcript that the model makes of them where its chain makes one."""
    extractor = pipeline.parts.units
    heard = [speech(each.samples, each.sample_rate, pipeline.limit) for each in sounds]
    units = extractor([resample(each.samples, each.sample_rate, extractor.sample_rate) for each in heard])
    questions = [Question(units=own) for own in units]
    if "transcribe" not in chain.template.layout(chain.name).stages:
        return questions
    sampling = pipeline.settings.sampling
    programs = ((place, chain.transcription(question, sampling)) for place, question in enumerate(questions))
    for place, text in ContinuousBatch(chain.model, len(questions) or 1).run(programs):
        if isinstance(text, Exception):
            raise text
        questions[place] = replace(questions[place], text=text)
    return questions

"""Ways from units to sound, side by side: recordings become units and sound again by each of them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch

from usdm.asr.recogniser import Recogniser
from usdm.audio import resample
from usdm.data.speech_corpus import Utterance
from usdm.evaluation.result_lines import Progress
from usdm.metrics.facts import surroundings
from usdm.metrics.intervals import Judged, WordErrorGap, WordErrorRate, word_error_gap, word_error_rate
from usdm.metrics.pitch import PitchDistance, pitch, pitch_distance
from usdm.metrics.quality import QualityScore
from usdm.metrics.speaker import SpeakerEncoder
from usdm.metrics.table import NONE, gap_cell, markdown_table, rate_cell
from usdm.metrics.text import word_errors
from usdm.types import InputError, Waveform
from usdm.unit_to_speech import DecoderSampling, FlowMatchingToSpeech, UnitToSpeech
from usdm.units import UnitTokenizer

RECORDINGS = "recordings"  # the first row: what the judges make of them


@dataclass(frozen=True)
class Contender:
    """A unit tokenizer and a way from its units to sound. Raises InputError if they are of different units."""

    name: str
    units: UnitTokenizer
    speech: UnitToSpeech
    sampling: DecoderSampling

    def __post_init__(self) -> None:
        for fact in ("num_units", "unit_rate"):
            ours, theirs = getattr(self.units, fact), getattr(self.speech, fact)
            if ours != theirs:
                raise InputError(
                    f"{self.name}: the unit tokenizer has {fact} {ours}, the decoder {theirs}; take parts that were "
                    "trained together"
                )


@dataclass(frozen=True)
class DecoderRow:
    """One contender over all items."""

    name: str
    word_errors: WordErrorRate
    word_error_gap: WordErrorGap | None  # from the recordings; None of themselves
    similarity: float | None  # mean cosine to the recording's speaker
    quality: float | None  # mean DNSMOS
    semitones: float | None  # root mean square of the pitch's distance, mean over items
    voicing: float | None  # share of frames that are voiced in one alone
    real_time_factor: float | None  # seconds for a second of sound, units to sound
    parameters: int | None  # of the decoder
    units_per_second: float | None
    steps: int | None  # of flow matching; None of what draws nothing


@dataclass(frozen=True)
class DecoderTable:
    rows: tuple[DecoderRow, ...]
    facts: Mapping[str, Any]

    def to_json(self) -> str:
        rows = [asdict(row) for row in self.rows]
        return json.dumps({"rows": rows, "facts": self.facts}, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        header = ["decoder", "WER (95 %)", "above the recordings", "similarity", "DNSMOS", "pitch, semitones"]
        header += ["voicing errors", "real-time factor", "parameters", "units a second", "steps"]
        return markdown_table(header, [_cells(row) for row in self.rows])


@dataclass(frozen=True)
class _Spoken:
    judged: Judged
    similarity: float | None
    quality: float | None
    pitch: PitchDistance | None
    seconds: float  # that it took
    lasts: float  # seconds of sound


def compare_decoders(
    contenders: Sequence[Contender],
    utterances: Sequence[Utterance],
    recogniser: Recogniser,
    *,
    speakers: SpeakerEncoder | None = None,
    quality: QualityScore | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> DecoderTable:
    """Args:
        utterances: recordings with their text.
        speakers, quality: None leaves their figures out.

    Raises:
        InputError: no contenders or utterances, two of one name, or an utterance without text.
    """
    names = [contender.name for contender in contenders]
    if not names or len(set(names)) < len(names) or RECORDINGS in names:
        raise InputError(f"contenders {names}: give one or more, each with a name of its own other than {RECORDINGS!r}")
    if not utterances or not all(utterance.text for utterance in utterances):
        raise InputError("decoders are compared on recordings with text: give at least one, all of them with text")
    spoken: dict[str, list[_Spoken]] = {name: [] for name in (RECORDINGS, *names)}
    for number, utterance in enumerate(utterances):
        recording = utterance.read()
        melody = pitch(recording)
        told = _Judges(utterance, recording, melody, recogniser, speakers, quality)
        spoken[RECORDINGS].append(told(recording, 0.0))
        for contender in contenders:
            spoken[contender.name].append(told(*_resynthesis(contender, recording, seed)))
        progress(number + 1, len(utterances))
    rows = [_row(name, items, spoken[RECORDINGS], contenders, seed) for name, items in spoken.items()]
    facts = {
        "items": len(utterances),
        "recogniser": recogniser.name,
        "speaker_encoder": None if speakers is None else speakers.name,
        "quality": None if quality is None else quality.name,
        "seed": seed,
        "decoding": {contender.name: asdict(contender.sampling) for contender in contenders},
        "units": {contender.name: contender.units.identity for contender in contenders},
        **surroundings(),
    }
    return DecoderTable(tuple(rows), facts)


class _Judges:
    """What they say of one utterance, spoken in several ways."""

    def __init__(
        self,
        utterance: Utterance,
        recording: Waveform,
        melody: Any,
        recogniser: Recogniser,
        speakers: SpeakerEncoder | None,
        quality: QualityScore | None,
    ) -> None:
        self._utterance, self._recording, self._melody = utterance, recording, melody
        self._recogniser, self._speakers, self._quality = recogniser, speakers, quality

    def __call__(self, sound: Waveform, seconds: float) -> _Spoken:
        is_recording = sound is self._recording
        alike = None if self._speakers is None or is_recording else self._speakers.similarity(sound, self._recording)
        (text,) = self._recogniser([sound])
        return _Spoken(
            judged=(self._utterance.dialog, word_errors(self._utterance.text or "", text)),
            similarity=alike,
            quality=None if self._quality is None else self._quality(sound),
            pitch=None if is_recording else pitch_distance(pitch(sound), self._melody),
            seconds=seconds,
            lasts=sound.seconds,
        )


@torch.inference_mode()
def _resynthesis(contender: Contender, recording: Waveform, seed: int) -> tuple[Waveform, float]:
    """The recording from its units, and the seconds from units to sound."""
    samples = resample(recording.samples, recording.sample_rate, contender.units.sample_rate)
    units = contender.units([samples])
    start = time.perf_counter()
    sound = contender.speech(units, [None], [seed], contender.sampling).sounds[0]
    return Waveform(sound, contender.speech.sample_rate), time.perf_counter() - start


def _row(
    name: str, spoken: Sequence[_Spoken], recordings: Sequence[_Spoken], contenders: Sequence[Contender], seed: int
) -> DecoderRow:
    judged = [one.judged for one in spoken]
    rate = word_error_rate(judged, seed)
    if rate is None:
        raise InputError("the recordings' texts hold no word to count: give texts with words")
    contender = next((each for each in contenders if each.name == name), None)
    off = [one.pitch.semitones for one in spoken if one.pitch is not None and one.pitch.semitones is not None]
    return DecoderRow(
        name=name,
        word_errors=rate,
        word_error_gap=word_error_gap(judged, [one.judged for one in recordings], seed) if contender else None,
        similarity=_mean([one.similarity for one in spoken]),
        quality=_mean([one.quality for one in spoken]),
        semitones=_mean(off),
        voicing=_mean([None if one.pitch is None else one.pitch.voicing for one in spoken]),
        real_time_factor=sum(one.seconds for one in spoken) / sum(one.lasts for one in spoken) if contender else None,
        parameters=sum(weight.numel() for weight in contender.speech.parameters()) if contender else None,
        units_per_second=contender.units.unit_rate if contender else None,
        steps=contender.sampling.steps if contender and isinstance(contender.speech, FlowMatchingToSpeech) else None,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _cells(row: DecoderRow) -> list[str]:
    numbers = [row.similarity, row.quality, row.semitones, row.voicing, row.real_time_factor]
    return [
        row.name,
        rate_cell(row.word_errors),
        gap_cell(row.word_error_gap),
        *(NONE if number is None else f"{number:.3f}" for number in numbers),
        NONE if row.parameters is None else f"{row.parameters / 1e6:.1f} M",
        NONE if row.units_per_second is None else f"{row.units_per_second:g}",
        NONE if row.steps is None else str(row.steps),
    ]

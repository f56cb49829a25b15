"""How far a reference recording moves the voice of what is said, and what that costs in words.

The same units are spoken without a reference and in each voice; an independent encoder says how like the reference's
speaker each result sounds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from usdm.asr.recogniser import Recogniser
from usdm.chain import SpokenDialogPipeline
from usdm.data.speech_corpus import Utterance
from usdm.evaluation.result_lines import Progress
from usdm.metrics.facts import surroundings
from usdm.metrics.intervals import Judged, MeanGap, WordErrorRate, mean_gap, word_error_rate
from usdm.metrics.speaker import SpeakerEncoder
from usdm.metrics.table import markdown_table, rate_cell
from usdm.metrics.text import word_errors
from usdm.types import InputError, Waveform

OWN_VOICE = "without a reference"


@dataclass(frozen=True)
class VoiceRow:
    """One voice over all items."""

    voice: str
    word_errors: WordErrorRate
    similarity: float | None  # mean cosine to the reference's speaker; None without a reference
    similarity_without: float | None  # of the same items, spoken without the reference
    rise: MeanGap | None


@dataclass(frozen=True)
class VoiceTable:
    rows: tuple[VoiceRow, ...]  # without a reference first
    facts: Mapping[str, Any]

    def to_json(self) -> str:
        rows = [asdict(row) for row in self.rows]
        return json.dumps({"rows": rows, "facts": self.facts}, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        header = ["voice", "similarity to the reference", "the same without it", "rise (95 %)", "WER"]
        return markdown_table(header, [_cells(row) for row in self.rows])


def compare_voices(
    pipeline: SpokenDialogPipeline,
    utterances: Sequence[Utterance],
    references: Mapping[str, Waveform],
    speakers: SpeakerEncoder,
    recogniser: Recogniser,
    *,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> VoiceTable:
    """Args:
        utterances: recordings with their text, made into units and spoken in every voice.
        references: by name.

    Raises:
        InputError: no references or utterances, one without text, a recording that cannot be used.
    """
    if not references or not utterances or not all(utterance.text for utterance in utterances):
        raise InputError("voices are compared on recordings with text and in at least one reference voice: give both")
    voices = {name: pipeline.voice(reference) for name, reference in references.items()}
    targets = {name: speakers.embed(reference) for name, reference in references.items()}
    judged: dict[str, list[Judged]] = {name: [] for name in (OWN_VOICE, *references)}
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in references}
    for number, utterance in enumerate(utterances):
        recording = utterance.read()
        plain = pipeline.resynthesize(recording.samples, recording.sample_rate, seed=seed)
        spoken = {
            name: pipeline.resynthesize(recording.samples, recording.sample_rate, reference=voice, seed=seed)
            for name, voice in voices.items()
        }
        sounds = {OWN_VOICE: plain, **spoken}
        for name, text in zip(sounds, recogniser(list(sounds.values())), strict=True):
            judged[name].append((utterance.dialog, word_errors(utterance.text or "", text)))
        own = speakers.embed(plain)
        for name, sound in spoken.items():
            pairs[name].append((float(speakers.embed(sound) @ targets[name]), float(own @ targets[name])))
        progress(number + 1, len(utterances))
    rows = [_row(name, judged[name], pairs.get(name), seed) for name in judged]
    judges = {"recogniser": recogniser.name, "speaker_encoder": speakers.name}
    facts = {"items": len(utterances), **judges, "seed": seed, **surroundings()}
    return VoiceTable(tuple(rows), facts)


def _row(name: str, judged: Sequence[Judged], pairs: Sequence[tuple[float, float]] | None, seed: int) -> VoiceRow:
    errors = word_error_rate(judged, seed)
    assert errors is not None  # every item has words
    if pairs is None:
        return VoiceRow(name, errors, None, None, None)
    with_it, without = zip(*pairs, strict=True)
    rise = mean_gap(with_it, without, [dialog for dialog, _ in judged], seed)
    return VoiceRow(name, errors, fmean(with_it), fmean(without), rise)


def _cells(row: VoiceRow) -> list[str]:
    if row.similarity is None or row.similarity_without is None or row.rise is None:
        return [row.voice, "–", "–", "–", rate_cell(row.word_errors)]
    rise = f"{row.rise.gap:+.3f} ({row.rise.low:+.3f} to {row.rise.high:+.3f})"
    return [row.voice, f"{row.similarity:.3f}", f"{row.similarity_without:.3f}", rise, rate_cell(row.word_errors)]

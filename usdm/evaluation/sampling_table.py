"""How few steps the decoder needs: settings of its sampling against the published one, on the same units.

Recordings become units and sound again under every setting. A setting is not worse than the published one beyond
noise if the 95 % interval of its paired difference (bootstrap over dialogs) reaches zero, both in word error rate
and in speaker similarity. The published setting is run under a second seed as well, so that the table shows how
far two of its own results lie apart.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from usdm.asr.recogniser import Recogniser
from usdm.audio import read_audio
from usdm.chain import DecoderSampling, SpokenDialogPipeline
from usdm.data.speech_corpus import Utterance
from usdm.evaluation.result_lines import Progress
from usdm.metrics.facts import surroundings
from usdm.metrics.intervals import (
    Judged,
    MeanGap,
    WordErrorGap,
    WordErrorRate,
    mean_gap,
    word_error_gap,
    word_error_rate,
)
from usdm.metrics.speaker import SpeakerEncoder
from usdm.metrics.text import word_errors
from usdm.types import InputError, ReferenceVoice, Waveform

PUBLISHED = DecoderSampling()  # 50 evaluations of Heun's method with guidance


@dataclass(frozen=True)
class SamplingRow:
    """One setting over all items, and how it compares with the published one."""

    sampling: DecoderSampling
    seed: int
    evaluations: int  # of the estimator for one reply; guidance makes two of one
    word_errors: WordErrorRate
    word_error_gap: WordErrorGap
    similarity: float | None  # cosine
    similarity_gap: MeanGap | None
    mel_distance: float  # mean absolute log-mel difference from the published setting's result
    seconds: float  # of decoding for a second of sound

    @property
    def not_worse(self) -> bool:
        """Than the published setting, beyond noise."""
        return self.word_error_gap.low <= 0 and (self.similarity_gap is None or self.similarity_gap.high >= 0)


@dataclass(frozen=True)
class SamplingTable:
    rows: tuple[SamplingRow, ...]  # the published setting under two seeds, then the others, cheapest first
    facts: Mapping[str, Any]

    @property
    def cheapest(self) -> SamplingRow:
        """Fewest evaluations among those that are not worse; of equals the one with the lower word error rate."""
        fit = [row for row in self.rows if row.not_worse]
        return min(fit, key=lambda row: (row.evaluations, row.word_errors.rate))

    def to_json(self) -> str:
        rows = [{**asdict(row), "not_worse": row.not_worse} for row in self.rows]
        chosen = asdict(self.cheapest.sampling)
        return json.dumps({"cheapest": chosen, "rows": rows, "facts": self.facts}, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class _Spoken:
    """One item under one setting."""

    judged: Judged
    similarity: float | None
    mel: Tensor  # (num_mels, M)
    decoding: float  # seconds
    sound: float  # seconds


def compare_sampling(
    pipeline: SpokenDialogPipeline,
    utterances: Sequence[Utterance],
    settings: Sequence[DecoderSampling],
    recogniser: Recogniser,
    *,
    speakers: SpeakerEncoder | None = None,
    reference: Waveform | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> SamplingTable:
    """The table over `settings` and the published one.

    Args:
        utterances: recordings with their text.
        speakers: judges similarity to the reference, or to each recording's own speaker; None leaves it out.
        reference: a recording whose voice to speak in.

    Raises:
        InputError: no utterances, one without text, a recording that cannot be read, settings out of range.
    """
    if not utterances or not all(utterance.text for utterance in utterances):
        raise InputError("sampling is compared on recordings with text: give at least one, all of them with text")
    runs = [(PUBLISHED, seed), (PUBLISHED, seed + 1)]
    runs += [(sampling, seed) for sampling in dict.fromkeys(settings) if sampling != PUBLISHED]
    voice = None if reference is None else pipeline.voice(reference)
    spoken: list[list[_Spoken]] = [[] for _ in runs]
    _speak(pipeline, pipeline.voice(read_audio(utterances[0].audio)).units, voice, PUBLISHED, seed)  # warm-up
    for number, utterance in enumerate(utterances):
        recording = read_audio(utterance.audio)
        units = pipeline.voice(recording).units
        target = None if speakers is None else speakers.embed(reference or recording)
        for place, (sampling, run_seed) in enumerate(runs):
            mel, sound, seconds = _speak(pipeline, units, voice, sampling, run_seed)
            (text,) = recogniser([sound])
            heard = word_errors(utterance.text or "", text)
            alike = None if speakers is None or target is None else float(speakers.embed(sound) @ target)
            spoken[place].append(_Spoken((utterance.dialog, heard), alike, mel, seconds, sound.seconds))
            progress(number * len(runs) + place + 1, len(utterances) * len(runs))
    rows = [_row(*run, results, spoken[0], seed) for run, results in zip(runs, spoken, strict=True)]
    facts = {
        "items": len(utterances),
        "recogniser": recogniser.name,
        "speaker_encoder": None if speakers is None else speakers.name,
        "similarity_to": "the reference voice" if reference is not None else "each recording's speaker",
        "seed": seed,
        "model": pipeline.fingerprint,
        **surroundings(),
    }
    return SamplingTable((*rows[:2], *sorted(rows[2:], key=lambda row: row.evaluations)), facts)


def evaluations(sampling: DecoderSampling) -> int:
    """Of the estimator, for one reply."""
    passes = sampling.steps if sampling.solver == "euler" else 2 * ((sampling.steps + 1) // 2) - 1
    return passes * (1 if sampling.guidance == 0 else 2)


@torch.inference_mode()
def _speak(
    pipeline: SpokenDialogPipeline, units: Tensor, voice: ReferenceVoice | None, sampling: DecoderSampling, seed: int
) -> tuple[Tensor, Waveform, float]:
    """Log-mel, sound, and the seconds that decoding took."""
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    mel = pipeline.parts.flow_matching.decoder.generate(units, reference=voice, generator=generator, **asdict(sampling))
    mel_here = mel.cpu()  # waits for the device
    seconds = time.perf_counter() - start
    sound = pipeline.parts.flow_matching.vocoder(mel[None])[0].float().cpu()
    return mel_here, Waveform(sound, pipeline.sample_rate), seconds


def _row(
    sampling: DecoderSampling, run_seed: int, spoken: Sequence[_Spoken], published: Sequence[_Spoken], seed: int
) -> SamplingRow:
    judged, baseline = [one.judged for one in spoken], [one.judged for one in published]
    rate, gap = word_error_rate(judged, seed), word_error_gap(judged, baseline, seed)
    if rate is None or gap is None:
        raise InputError("the recordings' texts hold no word to count: give texts with words")
    alike = [one.similarity for one in spoken if one.similarity is not None]
    alike_published = [one.similarity for one in published if one.similarity is not None]
    distances = [(one.mel - other.mel).abs().mean().item() for one, other in zip(spoken, published, strict=True)]
    dialogs = [dialog for dialog, _ in judged]
    return SamplingRow(
        sampling=sampling,
        seed=run_seed,
        evaluations=evaluations(sampling),
        word_errors=rate,
        word_error_gap=gap,
        similarity=fmean(alike) if alike else None,
        similarity_gap=mean_gap(alike, alike_published, dialogs, seed) if alike else None,
        mel_distance=fmean(distances),
        seconds=sum(one.decoding for one in spoken) / sum(one.sound for one in spoken),
    )

"""What it costs to speak before the reply is whole: streamed sound against the same units decoded at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from usdm.asr.recogniser import Recogniser
from usdm.chain import SpokenDialogPipeline
from usdm.data.speech_corpus import Utterance
from usdm.decoder import StreamingDecoder, StreamingSettings
from usdm.evaluation.result_lines import Progress
from usdm.metrics.facts import surroundings
from usdm.metrics.intervals import Judged, WordErrorGap, WordErrorRate, word_error_gap, word_error_rate
from usdm.metrics.quality import QualityScore
from usdm.metrics.table import NONE, markdown_table, rate_cell
from usdm.metrics.text import word_errors
from usdm.types import InputError, Waveform
from usdm.vocoder import StreamingVocoder

SEAM_FRAMES = 2  # on either side of where a chunk ends


@dataclass(frozen=True)
class StreamingRow:
    """One way of speaking over all items."""

    settings: StreamingSettings | None  # None: the whole reply at once
    word_errors: WordErrorRate
    word_error_gap: WordErrorGap  # above the whole reply's
    quality: float | None
    seam_distance: float | None  # mean absolute log-mel difference from the whole reply near the ends of chunks
    distance: float | None  # and elsewhere


@dataclass(frozen=True)
class StreamingTable:
    rows: tuple[StreamingRow, ...]  # the whole reply first
    facts: Mapping[str, Any]

    def to_json(self) -> str:
        rows = [asdict(row) for row in self.rows]
        return json.dumps({"rows": rows, "facts": self.facts}, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        header = ["first / chunk / left / lookahead (units)", "WER", "more errors than whole", "quality"]
        header += ["log-mel distance at seams", "elsewhere"]
        return markdown_table(header, [_cells(row) for row in self.rows])


@dataclass(frozen=True)
class _Spoken:
    judged: Judged
    quality: float | None
    at_seams: Tensor  # (n,) distances of frames
    elsewhere: Tensor  # (m,)


def compare_streaming(
    pipeline: SpokenDialogPipeline,
    utterances: Sequence[Utterance],
    settings: Sequence[StreamingSettings],
    recogniser: Recogniser,
    *,
    quality: QualityScore | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> StreamingTable:
    """Recordings as units and sound again, whole and under each of `settings`.

    Raises:
        InputError: no utterances, or one without text.
    """
    if not utterances or not all(utterance.text for utterance in utterances):
        raise InputError("streaming is compared on recordings with text: give at least one, all of them with text")
    ways: list[StreamingSettings | None] = [None, *settings]
    spoken: list[list[_Spoken]] = [[] for _ in ways]
    for number, utterance in enumerate(utterances):
        units = pipeline.voice(utterance.read()).units
        whole: Tensor | None = None
        for place, way in enumerate(ways):
            sound, ends = _speak(pipeline, units, way, seed)
            whole = sound if whole is None else whole
            waveform = Waveform(sound, pipeline.sample_rate)
            (text,) = recogniser([waveform])
            heard = utterance.dialog, word_errors(utterance.text or "", text)
            score = None if quality is None else quality(waveform)
            spoken[place].append(_Spoken(heard, score, *_distances(pipeline, sound, whole, ends)))
        progress(number + 1, len(utterances))
    rows = [_row(way, results, spoken[0], seed) for way, results in zip(ways, spoken, strict=True)]
    judges = {"recogniser": recogniser.name, "quality": None if quality is None else quality.name}
    return StreamingTable(tuple(rows), {"items": len(utterances), "seed": seed, **judges, **surroundings()})


@torch.inference_mode()
def _speak(
    pipeline: SpokenDialogPipeline, units: Tensor, settings: StreamingSettings | None, seed: int
) -> tuple[Tensor, list[int]]:
    """(T,) sound, and the samples at which chunks end."""
    parts, sampling = pipeline.parts.flow_matching, asdict(pipeline.settings.decoder)
    if settings is None:
        mel = parts.decoder.generate(units, generator=torch.Generator().manual_seed(seed), **sampling)
        return parts.vocoder(mel[None])[0].float().cpu(), []
    decoder = StreamingDecoder(parts.decoder, **asdict(settings), **sampling, seed=seed)
    vocoder = StreamingVocoder(parts.vocoder)
    chunks: list[Tensor] = []
    ends: list[int] = []
    for unit in units.split(1):
        mel = decoder.push(unit)
        if mel.shape[1]:
            chunks.append(vocoder.push(mel, decoder.ahead))
            ends.append(sum(map(len, chunks)))
    return torch.cat([*chunks, vocoder.push(decoder.finish()), vocoder.finish()]), ends


def _distances(
    pipeline: SpokenDialogPipeline, sound: Tensor, whole: Tensor, ends: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Of each frame from the whole reply's: near the ends of chunks, and elsewhere."""
    mels = [pipeline.parts.flow_matching.mel(each[None])[0] for each in (sound, whole)]
    distance = (mels[0] - mels[1]).abs().mean(dim=0)  # (M,)
    near = torch.zeros(len(distance), dtype=torch.bool)
    for end in ends:
        frame = end // pipeline.parts.flow_matching.decoder.mel.hop_length
        near[max(0, frame - SEAM_FRAMES) : frame + SEAM_FRAMES] = True
    return distance[near], distance[~near]


def _row(
    settings: StreamingSettings | None, spoken: Sequence[_Spoken], whole: Sequence[_Spoken], seed: int
) -> StreamingRow:
    judged = [one.judged for one in spoken]
    rate, gap = word_error_rate(judged, seed), word_error_gap(judged, [one.judged for one in whole], seed)
    assert rate is not None and gap is not None  # every item has words
    scores = [one.quality for one in spoken if one.quality is not None]
    streamed = settings is not None
    return StreamingRow(
        settings=settings,
        word_errors=rate,
        word_error_gap=gap,
        quality=fmean(scores) if scores else None,
        seam_distance=float(torch.cat([one.at_seams for one in spoken]).mean()) if streamed else None,
        distance=float(torch.cat([one.elsewhere for one in spoken]).mean()) if streamed else None,
    )


def _cells(row: StreamingRow) -> list[str]:
    lengths = "the whole reply" if row.settings is None else " / ".join(map(str, asdict(row.settings).values()))
    numbers = [row.quality, row.seam_distance, row.distance]
    gap = f"{row.word_error_gap.gap:+.1%} ({row.word_error_gap.low:+.1%} to {row.word_error_gap.high:+.1%})"
    return [lengths, rate_cell(row.word_errors), gap, *(NONE if each is None else f"{each:.3f}" for each in numbers)]

"""The stages of a batch synthesis, each over many requests at once: prepare, answer, voice.

They are generators that take what the one before has made, so that only what lies between them is in memory.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

import soundfile
import torch
from torch import Tensor

from usdm.audio import check_speech, read_audio
from usdm.chain.candidates import Asked
from usdm.chain.choosing import ChoosingChain
from usdm.chain.pipeline import SpokenDialogPipeline
from usdm.chain.replies import fade_out, unspoken
from usdm.chain.requests import SynthesisRequest
from usdm.chain.sound import LengthLimit
from usdm.chain.stages import Answer, LanguageModelChain, Question
from usdm.lm import ContinuousBatch, StageProgram, max_positions
from usdm.types import InputError, ReferenceVoice, Sampling, Waveform
from usdm.unit_to_speech import DecoderSampling

Item = TypeVar("Item")

BATCHES_SORTED = 8  # batches of recordings that are sorted by length among themselves
VOICES_KEPT = 64
LONGEST_RECORDING = 600.0  # seconds; the model's own limit is lower, this one keeps a whole day out of memory


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request with all that the language model or the decoder wants of it."""

    request: SynthesisRequest
    question: Question = Question()
    voice: ReferenceVoice | None = None
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by stage
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Answered:
    """A request with the units of its reply; without them there is an error."""

    prepared: Prepared
    answer: Answer
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Voiced:
    """A request with the sound of its reply; without it there is an error."""

    answered: Answered
    sound: Tensor | None  # (T,) float32
    timings: Mapping[str, float]  # seconds by stage; of what is done in batches, the request's share
    error: str | None = None


def prepare(
    pipeline: SpokenDialogPipeline, requests: Iterable[SynthesisRequest], batch: int
) -> Generator[Prepared, None, None]:
    """Recordings to units, `batch` of like length at once; voices to what the decoder takes."""
    voices = _Voices(pipeline)
    with on_own_stream(pipeline):
        for window in chunks(requests, batch * BATCHES_SORTED if batch > 1 else 1):
            for group in chunks(sorted(window, key=_seconds), batch):
                yield from _extract(pipeline, [_read(pipeline, request, voices) for request in group])


def answer(
    prepared: Iterable[Prepared],
    chain: LanguageModelChain | ChoosingChain,
    sampling: Mapping[str, Sampling],
    capacity: int,
) -> Generator[Answered, None, None]:
    """Questions to the units of their replies, up to `capacity` sequences at once, in order of finishing."""
    if isinstance(chain, ChoosingChain):
        outcomes = _chosen(prepared, chain, sampling, capacity)
    else:
        outcomes = _written(prepared, chain, sampling, capacity)
    for item, result in outcomes:
        if isinstance(result, Exception):
            if not isinstance(result, InputError):
                raise result
            yield Answered(item, Answer(None, None, None), str(result))
        else:
            yield Answered(item, result, item.error or unspoken(result.agent_text, result.agent_units))


def voice(
    pipeline: SpokenDialogPipeline, items: Sequence[Answered], decoder: DecoderSampling, seed: int
) -> list[Voiced]:
    """Units to sound, all `items` at once. A bad one does not spoil the others."""
    good = [item for item in items if item.error is None]
    failed = [Voiced(item, None, _timings(item), item.error) for item in items if item.error is not None]
    if not good:
        return failed
    try:
        return failed + _sounds(pipeline, good, decoder, seed)
    except InputError as error:
        if len(good) == 1:
            return [*failed, Voiced(good[0], None, _timings(good[0]), str(error))]
        return failed + [voiced for item in good for voiced in voice(pipeline, [item], decoder, seed)]


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def on_own_stream(pipeline: SpokenDialogPipeline) -> AbstractContextManager[object]:
    """On a GPU the stages overlap only if each has a CUDA stream of its own."""
    device = pipeline.parts.speech.device
    return torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext()


def _written(
    prepared: Iterable[Prepared],
    chain: LanguageModelChain,
    sampling: Mapping[str, Sampling],
    capacity: int,
) -> Iterator[tuple[Prepared, Answer | Exception]]:
    def program(item: Prepared) -> StageProgram[Answer]:
        if _is_settled(item):
            return _nothing_to_write(item)
        return chain.program(item.question, _seeded(sampling, item.request.seed))

    return ContinuousBatch(chain.model, capacity).run((item, program(item)) for item in prepared)


def _chosen(
    prepared: Iterable[Prepared],
    chain: ChoosingChain,
    sampling: Mapping[str, Sampling],
    capacity: int,
) -> Iterator[tuple[Prepared, Answer | Exception]]:
    """As many questions at once as have room for all their candidates."""
    for group in chunks(prepared, max(1, capacity // chain.count)):
        settled = [item for item in group if _is_settled(item)]
        yield from ((item, _settled_answer(item)) for item in settled)
        asking = [item for item in group if not _is_settled(item)]
        asked = [Asked(item.question, _seeded(sampling, item.request.seed)) for item in asking]
        yield from zip(asking, chain.answers(asked, capacity), strict=True)


class _Voices:
    """Reference voices of recordings and names; many requests share one."""

    def __init__(self, pipeline: SpokenDialogPipeline) -> None:
        self._pipeline = pipeline
        self._of_file = lru_cache(VOICES_KEPT)(self._read)

    def __call__(self, request: SynthesisRequest) -> ReferenceVoice | None:
        if request.reference is not None:
            return self._of_file(request.folder / request.reference)
        return self._pipeline.speaker(voice=request.voice)

    def _read(self, path: Path) -> ReferenceVoice:
        return self._pipeline.voice(_read_speech(path))


def _seconds(request: SynthesisRequest) -> float:
    """Of the recording, by its header; 0 where there is none, or none that can be read."""
    try:
        return float(soundfile.info(request.folder / request.audio).duration) if request.audio is not None else 0.0
    except (soundfile.SoundFileError, OSError):
        return 0.0  # reading it will say why


def _read(pipeline: SpokenDialogPipeline, request: SynthesisRequest, voices: _Voices) -> Prepared:
    extractor = pipeline.parts.units
    try:
        question = Question(text=request.text, history=request.history, reply=request.reply)
        if request.units is not None and (largest := max(request.units)) >= extractor.num_units:
            raise InputError(f"unit {largest}: this model's units are 0..{extractor.num_units - 1}")
        if request.audio is not None:
            LengthLimit(max_positions(pipeline.parts.llm), extractor.unit_rate).check(_seconds(request))
            heard = _read_speech(request.folder / request.audio, extractor.sample_rate)
            question = replace(question, waveform=heard, text=request.transcript)
        return Prepared(request, question, voices(request))
    except InputError as error:
        return Prepared(request, error=str(error))


def _read_speech(path: Path, sample_rate: int | None = None) -> Waveform:
    recording = read_audio(path, sample_rate, LONGEST_RECORDING)
    try:
        check_speech(recording)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return recording


def _extract(pipeline: SpokenDialogPipeline, group: Sequence[Prepared]) -> list[Prepared]:
    """The same with units for their recordings, which are let go."""
    heard = {item: item.question.waveform.samples for item in group if item.question.waveform is not None}
    if not heard:
        return list(group)
    start = time.perf_counter()
    try:
        rows = pipeline.parts.units(list(heard.values()))
    except InputError as error:
        if len(group) > 1:
            return [alone for item in group for alone in _extract(pipeline, [item])]
        return [replace(group[0], question=Question(), error=str(error))]
    share = {"units": (time.perf_counter() - start) / len(heard)}
    units = dict(zip(heard, rows, strict=True))
    return [
        replace(item, question=replace(item.question, waveform=None, units=units[item]), timings=share)
        if item in units
        else item
        for item in group
    ]


def _seeded(sampling: Mapping[str, Sampling], seed: int | None) -> Mapping[str, Sampling]:
    """A request's own seed goes before the run's."""
    return sampling if seed is None else {stage: replace(own, seed=seed) for stage, own in sampling.items()}


def _is_settled(item: Prepared) -> bool:
    """Whether there is nothing to write: it is wrong, or brings the units of its reply."""
    return item.error is not None or item.request.units is not None


def _settled_answer(item: Prepared) -> Answer:
    units = item.request.units
    return Answer(None, None, None if units is None else torch.tensor(units))


def _nothing_to_write(item: Prepared) -> StageProgram[Answer]:
    """Ends at its first step."""
    return _settled_answer(item)
    yield  # a generator all the same


def _timings(item: Answered) -> dict[str, float]:
    return {**item.prepared.timings, **item.answer.timings}


def _sounds(
    pipeline: SpokenDialogPipeline, items: Sequence[Answered], decoder: DecoderSampling, seed: int
) -> list[Voiced]:
    spoken = pipeline.parts.speech(
        [item.answer.agent_units for item in items if item.answer.agent_units is not None],
        [item.prepared.voice for item in items],
        [seed if (own := item.prepared.request.seed) is None else own for item in items],
        decoder,
    )
    share = {step: seconds / len(items) for step, seconds in spoken.timings.items()}
    return [_finished(pipeline, item, sound, share) for item, sound in zip(items, spoken.sounds, strict=True)]


def _finished(pipeline: SpokenDialogPipeline, item: Answered, sound: Tensor, share: Mapping[str, float]) -> Voiced:
    timings = {**_timings(item), **share}
    if not torch.isfinite(sound).all():
        return Voiced(item, None, timings, "decoder and vocoder made samples that are not finite (NaN, infinity)")
    if "speak" in item.answer.truncated:
        sound = fade_out(sound, pipeline.sample_rate)
    return Voiced(item, sound, timings)

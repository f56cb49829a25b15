"""One reply on the shared batch: ids in as they are written, texts and sound out as they are known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from usdm.audio.streaming import StreamingResampler
from usdm.chain import Answer, LanguageModelChain, Question, SpokenDialogPipeline, SpokenText
from usdm.chain.streaming import SpeechStream
from usdm.lm import StageProgram, TokenStream
from usdm.lm.batch import Progress
from usdm.serve.audio_formats import PCM16
from usdm.serve.engine import Owner
from usdm.serve.engine_events import (
    EngineEvent,
    ReplyEnded,
    ReplySound,
    ReplyText,
    Transcribed,
    TranscriptionFailed,
    Usage,
)
from usdm.serve.settings import ReplySettings
from usdm.types import InputError, Sampling

Tell = Callable[[EngineEvent], None]


@dataclass(frozen=True, eq=False)
class ReplyOrder:
    """What a session asks for."""

    reply_id: str
    question: Question
    settings: ReplySettings


class LiveReply:
    """Being made. For the engine's thread alone."""

    def __init__(
        self,
        pipeline: SpokenDialogPipeline,
        chain: LanguageModelChain,
        owner: Owner,
        order: ReplyOrder,
        tell: Tell,
        play: Callable[[Tensor, int], None],
        end: Callable[[str], None],
    ) -> None:
        """`play` is given all sound with its rate, `end` the reply's id. Raises InputError for a question that cannot
        be answered."""
        settings = order.settings
        self.order = order
        self.owner = owner
        self._tell = tell
        self._play = play
        self._ended = end
        self._chain = chain
        self._sampling = sampling(pipeline, settings)
        self._speak = settings.modality == "audio"
        self._request = pipeline.request(
            order.question,
            chain,
            time.perf_counter(),
            voice=settings.voice,
            sampling=self._sampling,
            speak=self._speak,
            seed=settings.seed,
        )
        self._speech = SpeechStream(pipeline.parts, self._request)
        self._to_pcm = StreamingResampler(self._speech.sample_rate, PCM16.sample_rate)
        self._to_wire = StreamingResampler(self._speech.sample_rate, settings.output_format.sample_rate)
        self._unit_offset = pipeline.parts.template.vocabulary.layout.unit_offset
        self._units: list[int] = []
        self._num_text = 0  # ids of text that were written
        self._read = Usage()

    @property
    def stream(self) -> TokenStream:
        assert self._chain.stream is not None
        return self._chain.stream

    def program(self) -> StageProgram[Answer]:
        """To be played at once, from where the chain's stream ends. Raises InputError as the chain does."""
        question = self._request.question
        prompt = self._chain.prompt(question, self._speak)
        units = 0 if question.units is None else len(question.units)
        program = self._chain.continued(question, self._sampling, self._speak, self._tell_text)
        self._read = Usage(len(prompt) - units, units, cached=self.stream.num_read)
        return program

    def take(self, progress: Progress) -> None:
        """Follow the program."""
        for written in progress.written:
            if written.stage != "speak":
                self._num_text += 1
                continue
            self._units.append(written.id - self._unit_offset)
            if (chunk := self._speech.push(self._units[-1])) is not None:
                self._say(chunk.samples)
        if not progress.ended:
            return
        if isinstance(progress.outcome, Exception):
            raise progress.outcome
        answer: Answer = progress.outcome
        if self._units:
            chunk = self._speech.finish(cut_off="speak" in answer.truncated)
            self._say(torch.zeros(0) if chunk is None else chunk.samples, is_last=True)
        self._end(truncated=bool(answer.truncated))

    def cancel(self) -> None:
        self._end(cancelled=True)

    def fail(self, message: str, is_defect: bool = False) -> None:
        self._end(failure=message, is_defect=is_defect)

    def _end(
        self, truncated: bool = False, cancelled: bool = False, failure: str | None = None, is_defect: bool = False
    ) -> None:
        usage = replace(self._read, written_text=self._num_text, written_units=len(self._units))
        units = torch.tensor(self._units, dtype=torch.int64)
        self._ended(self.order.reply_id)
        self._tell(ReplyEnded(self.order.reply_id, units, usage, truncated, cancelled, failure, is_defect))

    def _tell_text(self, said: SpokenText) -> None:
        self._tell(ReplyText(self.order.reply_id, said.role, said.text))

    def _say(self, samples: Tensor, is_last: bool = False) -> None:
        """(t,) at the vocoder's rate."""
        if not torch.isfinite(samples).all():
            raise InputError("decoder and vocoder made samples that are not finite (NaN, infinity)")
        format_ = self.order.settings.output_format
        pcm = PCM16.encode(_pushed(self._to_pcm, samples, is_last))
        wire = pcm if format_ is PCM16 else format_.encode(_pushed(self._to_wire, samples, is_last))
        self._play(samples, self._speech.sample_rate)
        if wire:
            self._tell(ReplySound(self.order.reply_id, wire, pcm))


class LiveTranscription:
    """The words of a heard turn, by themselves. For the engine's thread alone."""

    def __init__(
        self,
        pipeline: SpokenDialogPipeline,
        chain: LanguageModelChain,
        stream: TokenStream,
        owner: Owner,
        item_id: str,
        question: Question,
        tell: Tell,
    ) -> None:
        self.owner = owner
        self.stream = stream  # a new one
        self._pipeline, self._chain = pipeline, chain
        self._item_id, self._question = item_id, question
        self._tell = tell

    def program(self) -> StageProgram[str]:
        return self._chain.transcription(self._question, self._pipeline.settings.sampling)

    def take(self, progress: Progress) -> None:
        if progress.ended and isinstance(progress.outcome, Exception):
            raise progress.outcome
        if progress.ended:
            self._tell(Transcribed(self._item_id, progress.outcome))

    def fail(self, message: str, is_defect: bool) -> None:
        self._tell(TranscriptionFailed(self._item_id, message))


def sampling(pipeline: SpokenDialogPipeline, settings: ReplySettings) -> Mapping[str, Sampling]:
    """The bundle's, under the client's seed, temperature and limit."""
    own = pipeline.settings.sampling
    drawn = {
        stage: replace(own.get(stage, Sampling()), seed=settings.seed) for stage in ("transcribe", "respond", "speak")
    }
    if settings.temperature is not None:  # what is drawn is not searched
        beams = 1 if settings.temperature else drawn["respond"].num_beams
        drawn["respond"] = replace(drawn["respond"], temperature=settings.temperature, num_beams=beams)
    if settings.max_output_tokens is not None:
        for stage in ("respond", "speak"):
            limit = min(drawn[stage].max_new_tokens, settings.max_output_tokens)
            drawn[stage] = replace(drawn[stage], max_new_tokens=limit)
    return drawn


def _pushed(resampler: StreamingResampler, samples: Tensor, is_last: bool) -> Tensor:
    sound = resampler.push(samples)
    return torch.cat([sound, resampler.finish()]) if is_last else sound

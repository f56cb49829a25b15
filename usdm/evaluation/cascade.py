"""A cascade: a recogniser hears, a text model replies, a voice speaks. What joint modelling must be better than."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from usdm.asr.recogniser import Recogniser
from usdm.audio import read_audio, write_audio
from usdm.chain import SpokenDialogPipeline
from usdm.chain.requests import SynthesisRequest
from usdm.chain.synthesis import synthesize
from usdm.chain.synthesis_results import RESULTS_FILE, SynthesisResult
from usdm.evaluation.result_lines import Progress
from usdm.runs import JsonLines, claim
from usdm.types import InputError, Turn, Waveform

BATCH = 16  # questions heard or answered at once
HEARD, REPLIES = "heard", "replies"  # stages, and files of `cascade/`

Texts = Callable[[list[SynthesisRequest]], list[str]]


class TextModel(Protocol):
    """Answers in words."""

    identity: str

    def __call__(self, dialogs: Sequence[Sequence[Turn]]) -> list[str]:
        """The agent's next turn of each dialog, whose last turn is the user's."""


class Voice(Protocol):
    """Speaks words."""

    identity: str
    sample_rate: int  # Hz

    def __call__(self, text: str) -> Waveform: ...


@dataclass(frozen=True)
class Cascade:
    """Three parts in a row.

    Args:
        pipeline: the model whose parts stand in where there is no other.
        ears: the recogniser.
        text_model: None is the model's own language model, which is given the words alone.
        voice: None is the model's own, from words to units to sound.
        capacity: sequences that the model's own language model writes at once.
    """

    pipeline: SpokenDialogPipeline
    ears: Recogniser
    text_model: TextModel | None = None
    voice: Voice | None = None
    seed: int = 0
    capacity: int = 8
    retry_errors: bool = False

    def predict(
        self, requests: Sequence[SynthesisRequest], folder: Path, *, overwrite: bool, progress: Progress
    ) -> None:
        """See `System`. Raises InputError for requests that tell what a cascade must find out itself."""
        if any(request.audio is None or request.transcript is not None for request in requests):
            raise InputError("a cascade hears its questions: what it should be given instead goes to a chain")
        settings = {"ears": self.ears.identity, "text_model": self.text_model and self.text_model.identity}
        with claim(folder / "cascade", settings, {}, results=("*.jsonl",), overwrite=overwrite):
            heard = _complete(folder / "cascade", HEARD, requests, self._hear)
            typed = [
                SynthesisRequest(each.id, text=heard[each.id], history=each.history, folder=each.folder)
                for each in requests
            ]
            replies = {} if self.text_model is None else _complete(folder / "cascade", REPLIES, typed, self._reply)
        if self.voice is None:
            self._speak_by_units(typed, replies, folder, overwrite, progress)
        else:
            self._speak(self.voice, typed, replies, folder, overwrite, progress)

    def _hear(self, requests: list[SynthesisRequest]) -> list[str]:
        return self.ears([read_audio(each.folder / each.audio) for each in requests if each.audio is not None])

    def _reply(self, requests: list[SynthesisRequest]) -> list[str]:
        assert self.text_model is not None
        return self.text_model([[*each.history, Turn("user", each.text or "")] for each in requests])

    def _speak_by_units(
        self,
        typed: Sequence[SynthesisRequest],
        replies: Mapping[str, str],
        folder: Path,
        overwrite: bool,
        progress: Progress,
    ) -> None:
        requests = [
            SynthesisRequest(each.id, text=each.text, reply=replies.get(each.id), history=each.history)
            for each in typed
        ]
        synthesize(
            self.pipeline,
            requests,
            folder,
            seed=self.seed,
            capacity=self.capacity,
            retry_errors=self.retry_errors,
            overwrite=overwrite,
            progress=lambda done, total, _: progress(done, total),
        )

    def _speak(
        self,
        voice: Voice,
        typed: Sequence[SynthesisRequest],
        replies: Mapping[str, str],
        folder: Path,
        overwrite: bool,
        progress: Progress,
    ) -> None:
        own = None if self.text_model is not None else self.pipeline.fingerprint
        settings = {"ears": self.ears.identity, "voice": voice.identity, "seed": self.seed, "llm": own}
        settings["text_model"] = self.text_model and self.text_model.identity
        written = (RESULTS_FILE, *(f"{each.id}.wav" for each in typed))
        with claim(folder, settings, {}, results=written, overwrite=overwrite) as claimed:
            with JsonLines(folder / RESULTS_FILE) as lines:
                digests = {each.id: each.digest for each in typed}
                lines.keep(
                    lambda row: (
                        digests.get(row["id"]) == row["request"]
                        and not (self.retry_errors and row["error"] is not None)
                    )
                )
                done = {row["id"] for row in lines.rows()}
                for each in typed:
                    if each.id not in done:
                        lines.append(vars(self._spoken(voice, each, replies.get(each.id), folder)))
                        done.add(each.id)
                    progress(len(done), len(typed))
            claimed.finish()

    def _spoken(self, voice: Voice, request: SynthesisRequest, reply: str | None, folder: Path) -> SynthesisResult:
        timings: dict[str, float] = {}
        try:
            if reply is None:
                start = time.perf_counter()
                answer = self.pipeline.respond(text=request.text, history=request.history, speak=False, seed=self.seed)
                reply, timings["respond"] = answer.agent_text or "", time.perf_counter() - start
            start = time.perf_counter()
            sound = voice(reply)
            timings["voice"] = time.perf_counter() - start
            write_audio(folder / f"{request.id}.wav", sound.samples, sound.sample_rate)
        except InputError as error:
            return SynthesisResult(request.id, request.digest, request.text, reply, error=str(error))
        return SynthesisResult(request.id, request.digest, request.text, reply, seconds=sound.seconds, timings=timings)


def _complete(folder: Path, stage: str, requests: Sequence[SynthesisRequest], texts: Texts) -> dict[str, str]:
    """A text for each request; those that the stage's file has for the same request come from there."""
    with JsonLines(folder / f"{stage}.jsonl") as lines:
        digests = {each.id: each.digest for each in requests}
        lines.keep(lambda row: digests.get(row["id"]) == row["request"])
        known = {row["id"]: row["text"] for row in lines.rows()}
        for batch in _batches([each for each in requests if each.id not in known]):
            start = time.perf_counter()
            found = texts(batch)
            share = (time.perf_counter() - start) / len(batch)
            rows: list[dict[str, Any]] = [
                {"id": each.id, "request": each.digest, "stage": stage, "text": text, "seconds": round(share, 6)}
                for each, text in zip(batch, found, strict=True)
            ]
            lines.append(*rows)
            known |= {row["id"]: row["text"] for row in rows}
    return known


def _batches(requests: list[SynthesisRequest]) -> Iterator[list[SynthesisRequest]]:
    for start in range(0, len(requests), BATCH):
        yield requests[start : start + BATCH]

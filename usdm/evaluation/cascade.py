"""A cascade: a recogniser hears, a text model replies, a voice speaks. What joint modelling must be better than."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from usdm.asr.recogniser import Recogniser
from usdm.audio import read_audio, write_audio
from usdm.chain import SpokenDialogPipeline
from usdm.chain.requests import SynthesisRequest
from usdm.chain.stages import timed
from usdm.chain.synthesis import synthesize
from usdm.chain.synthesis_results import RESULTS_FILE, SynthesisResult
from usdm.evaluation.predictions import read_predictions
from usdm.evaluation.result_lines import Progress
from usdm.runs import JsonLines, claim, digest
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
        settings: dict[str, Any] = {
            "ears": self.ears.identity,
            "text_model": self.text_model and self.text_model.identity,
        }
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
            if self.text_model is None:
                settings["llm"] = [self.pipeline.fingerprint, self.pipeline.precision["llm"]]
            settings |= {"voice": self.voice.identity, "seed": self.seed}
            say = partial(self._answer, self.voice, replies)
            _say_all(folder, settings, typed, say, self.retry_errors, overwrite, progress)

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

    def _answer(self, voice: Voice, replies: Mapping[str, str], request: SynthesisRequest) -> Said:
        reply, timings = replies.get(request.id), dict[str, float]()
        if reply is None:
            with timed(timings, "respond"):
                answer = self.pipeline.respond(text=request.text, history=request.history, speak=False, seed=self.seed)
            reply = answer.agent_text or ""
        with timed(timings, "voice"):
            return Said(request.text, reply, voice(reply), timings)


@dataclass(frozen=True)
class Resaid:
    """The replies of another folder in another voice: what a judge hears in them is how well they could be understood.

    Args:
        pipeline, seed, capacity: of no use here; every system is given them.
        predictions: the folder.
    """

    pipeline: SpokenDialogPipeline
    predictions: str
    voice: Voice
    seed: int = 0
    capacity: int = 8
    retry_errors: bool = False

    def predict(
        self, requests: Sequence[SynthesisRequest], folder: Path, *, overwrite: bool, progress: Progress
    ) -> None:
        """See `System`. Raises InputError if the other folder lacks a request's reply in words."""
        replies = {key: each.agent_text for key, each in read_predictions(self.predictions).items()}
        if lacking := [each.id for each in requests if replies.get(each.id) is None]:
            raise InputError(f"{self.predictions}: no reply in words to {len(lacking)} items, such as {lacking[0]}")
        typed = [SynthesisRequest(each.id, text=replies[each.id]) for each in requests]
        settings = {"resaid": digest(replies), "listens": False, "voice": self.voice.identity}
        _say_all(folder, settings, typed, self._say, self.retry_errors, overwrite, progress)

    def _say(self, request: SynthesisRequest) -> Said:
        timings: dict[str, float] = {}
        with timed(timings, "voice"):
            return Said(None, request.text or "", self.voice(request.text or ""), timings)


@dataclass(frozen=True)
class Said:
    """A reply in words and as sound."""

    heard: str | None  # what the question was taken for; None: nobody listened
    text: str
    sound: Waveform
    timings: Mapping[str, float]  # filled when it is there


def _say_all(
    folder: Path,
    settings: Mapping[str, Any],
    requests: Sequence[SynthesisRequest],
    say: Callable[[SynthesisRequest], Said],
    retry_errors: bool,
    overwrite: bool,
    progress: Progress,
) -> None:
    """One after the other what the folder does not have yet."""
    written = (RESULTS_FILE, *(f"{glob.escape(each.id)}.wav" for each in requests))
    with claim(folder, settings, {}, results=written, overwrite=overwrite) as claimed:
        with JsonLines(folder / RESULTS_FILE) as lines:
            digests = {each.id: each.digest for each in requests}
            lines.keep(
                lambda row: digests.get(row["id"]) == row["request"] and not (retry_errors and row["error"] is not None)
            )
            done = {row["id"] for row in lines.rows()}
            for each in requests:
                if each.id not in done:
                    lines.append(asdict(_result(folder, each, say)))
                    done.add(each.id)
                progress(len(done), len(requests))
        claimed.finish()


def _result(folder: Path, request: SynthesisRequest, say: Callable[[SynthesisRequest], Said]) -> SynthesisResult:
    try:
        said = say(request)
        write_audio(folder / f"{request.id}.wav", said.sound.samples, said.sound.sample_rate)
    except InputError as error:
        return SynthesisResult(request.id, request.digest, error=str(error))
    return SynthesisResult(
        request.id, request.digest, said.heard, said.text, seconds=said.sound.seconds, timings=said.timings
    )


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

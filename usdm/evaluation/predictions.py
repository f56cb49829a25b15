"""What the chain made of each held-out turn, and what a recogniser heard in it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from usdm.asr.recogniser import Recogniser
from usdm.audio import read_audio
from usdm.chain import SpokenDialogPipeline
from usdm.evaluation.held_out import HeldOutItem
from usdm.evaluation.result_lines import Progress, complete
from usdm.metrics.text import meteor, rouge_l, scored_words, word_errors
from usdm.types import SpokenReply, Waveform

logger = logging.getLogger(__name__)

Synthesiser = Callable[[str], Waveform]  # says ASCII text with at least one word


@dataclass(frozen=True)
class Prediction:
    """Texts and seconds of one item; its scores follow from them."""

    key: str  # of all that the outcome depends on
    id: str
    dialog: str
    speaker: str  # of the user's recording
    user_text: str  # what the user says
    reference: str  # the agent turn that the dialog has
    question_seconds: float
    transcript: str | None = None  # what the model heard; None in chains that do not transcribe
    reply: str | None = None  # what it says in return; None in chains that do not write it down
    user_recognised: str = ""  # the recogniser on the user's recording
    cascade_reply: str | None = None  # the model's to what the recogniser heard; None where it heard no word
    agent_recognised: str = ""  # on the recording of the reference
    resynthesis_recognised: str = ""  # on that recording, turned into units and back into sound
    reply_recognised: str = ""  # on the spoken reply
    synthesis_recognised: str | None = None  # on a synthesiser saying the reply, where one was given
    reply_seconds: float = 0.0
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by stage
    truncated: tuple[str, ...] = ()
    error: str | None = None  # why the item failed; nothing of it is scored then

    def row(self) -> dict[str, Any]:
        """The outcome with its scores, as a reader of `items.jsonl` wants it."""
        scores: dict[str, Any] = {}
        if self.transcript is not None:
            scores["transcript_errors"] = asdict(word_errors(self.user_text, self.transcript))
        if self.reply is not None:
            scores["meteor"] = meteor(self.reference, self.reply)
            scores["rouge_l"] = rouge_l(self.reference, self.reply)
            scores["spoken_reply_errors"] = asdict(word_errors(self.reply, self.reply_recognised))
        return asdict(self) | ({"scores": scores} if scores else {})


def run_items(
    pipeline: SpokenDialogPipeline,
    items: Sequence[HeldOutItem],
    recogniser: Recogniser,
    path: Path,
    *,
    chain: str | None,
    seed: int,
    synthesiser: Synthesiser | None,
    progress: Progress,
) -> list[Prediction]:
    """One outcome an item, in order. Those that the file has under the same key are taken from there.

    A failing item becomes an outcome with `error`, logged with its trace, and is tried again by the next run.
    """
    system = [pipeline.fingerprint, asdict(pipeline.settings), chain, seed, recogniser.identity, synthesiser is None]
    work = {}
    for item in items:
        key = _key(item, system)
        work[key] = partial(_run_item, pipeline, item, recogniser, key, chain, seed, synthesiser)
    return complete(path, Prediction, work, progress)


def _run_item(
    pipeline: SpokenDialogPipeline,
    item: HeldOutItem,
    recogniser: Recogniser,
    key: str,
    chain: str | None,
    seed: int,
    synthesiser: Synthesiser | None,
) -> Prediction:
    user_text, reference = item.references
    prediction = Prediction(
        key, item.id, item.dialog, item.user.speaker, user_text, reference, question_seconds=item.user.duration
    )
    try:
        question, agent = read_audio(item.user.audio), read_audio(item.agent.audio)
        reply = pipeline.respond(question.samples, question.sample_rate, history=item.history, chain=chain, seed=seed)
        resynthesis = pipeline.resynthesize(agent.samples, agent.sample_rate, seed=seed)
        said = torch.zeros(0) if reply.waveform is None else reply.waveform  # a reply without units is not heard
        sound = Waveform(said, reply.sample_rate)
        recognised, of_agent, of_resynthesis, of_reply = recogniser([question, agent, resynthesis, sound])
        return replace(
            prediction,
            transcript=reply.user_text,
            reply=reply.agent_text,
            user_recognised=recognised,
            cascade_reply=_cascade(pipeline, item, reply, recognised, seed),
            agent_recognised=of_agent,
            resynthesis_recognised=of_resynthesis,
            reply_recognised=of_reply,
            synthesis_recognised=_synthesised(reply.agent_text, recogniser, synthesiser),
            reply_seconds=sound.seconds,
            timings=dict(reply.timings),
            truncated=reply.truncated,
        )
    except Exception as error:  # one bad item must not end a long run; it is counted and makes the run fail
        logger.exception("%s failed", item.id)
        return replace(prediction, error=f"{type(error).__name__}: {error}")


def _cascade(
    pipeline: SpokenDialogPipeline, item: HeldOutItem, reply: SpokenReply, recognised: str, seed: int
) -> str | None:
    """What the same model replies to the recogniser's words; chains without texts have no such thing."""
    if reply.user_text is None or reply.agent_text is None or not scored_words(recognised):
        return None
    text = " ".join(scored_words(recognised)) + ("?" if recognised.endswith("?") else ".")
    return pipeline.respond(text=text, history=item.history, speak=False, seed=seed).agent_text


def _synthesised(reply: str | None, recogniser: Recogniser, synthesiser: Synthesiser | None) -> str | None:
    if synthesiser is None or reply is None:
        return None
    text = reply.encode("ascii", "ignore").decode()  # English is what synthesiser and recogniser know
    return recogniser([synthesiser(text)])[0] if scored_words(text) else ""


def _key(item: HeldOutItem, system: Sequence[Any]) -> str:
    """Digest of everything that an outcome depends on."""
    texts = [*item.references, *(turn.text for turn in item.history)]
    digest = hashlib.sha256(json.dumps([item.id, texts, *system], sort_keys=True).encode())
    for audio in (item.user.audio, item.agent.audio):
        digest.update(hashlib.sha256(audio.read_bytes()).digest())
    return digest.hexdigest()

"""Held-out dialogs through the whole chain, and any real recordings: a scorecard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig
from tqdm import tqdm

import usdm
from data_prep.embedded_model.flite import Flite
from usdm.cli import Figures, WorkFailed
from usdm.cli.model import load_asr, load_pipeline
from usdm.data.speech_corpus import Utterance, read_speech_corpora
from usdm.evaluation import (
    evaluate,
    evaluate_recordings,
    read_held_out,
    scorecard_table,
    transcript_table,
)
from usdm.evaluation.baselines import ServiceReplies, read_dialogs_file
from usdm.evaluation.held_out import spread
from usdm.evaluation.predictions import Synthesiser
from usdm.evaluation.recordings import read_recordings
from usdm.evaluation.result_lines import Progress
from usdm.evaluation.scorecard import Scorecard
from usdm.metrics.intervals import WordErrorRate
from usdm.types import InputError, Waveform

PACKAGED_SET = Path(usdm.__file__).parent / "assets" / "held_out"


def run(config: DictConfig) -> Figures:
    # What is wrong with the input is told before the model is loaded.
    where = dict(config.where)
    if not config.dialogs and not config.recordings:
        raise InputError("dialogs=false: nothing is left to evaluate; give recordings=[FOLDER], or dialogs=true")
    if config.dialogs:
        read_held_out(config.held_out or PACKAGED_SET)
    for folder in config.recordings:
        read_recordings(folder, where, config.by)
    replies, service_replies = training_replies(config.training_corpus), services(config.dialogs_file)
    synthesiser = flite(config.synthesiser) if config.synthesiser else None
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    judge = load_asr(config)
    pipeline = load_pipeline(config)
    failed = 0
    figures: dict[str, float] = {}
    if config.dialogs:
        with bar("dialogs") as progress:
            scorecard = evaluate(
                pipeline,
                config.held_out or PACKAGED_SET,
                judge,
                config.output_dir,
                limit=config.limit,
                training_replies=replies,
                service_replies=service_replies,
                refusal_phrase=config.refusal_phrase,
                synthesiser=synthesiser,
                examples=config.examples,
                seed=config.seed,
                progress=progress,
            )
        print(scorecard_table(scorecard))
        failed += scorecard.failed
        figures |= figures_of(scorecard)
    scores = []
    for folder in config.recordings:
        with bar(Path(folder).name) as progress:
            scores.append(
                evaluate_recordings(
                    pipeline,
                    folder,
                    judge,
                    config.output_dir,
                    where=where,
                    by=config.by,
                    limit=config.limit,
                    seed=config.seed,
                    progress=progress,
                )
            )
        failed += scores[-1].failed
        figures |= rates({f"{Path(folder).name} WER": scores[-1].transcript})
    if scores:
        print(transcript_table(scores))
    print(f"written to {config.output_dir}")
    if failed:
        failure = WorkFailed(f"{failed} items failed; the files in {config.output_dir} say why under `error`")
        failure.figures = figures
        raise failure
    return figures


def figures_of(scorecard: Scorecard) -> dict[str, float]:
    """What the table of a sweep shows: how well it hears, speaks and replies."""
    reply = scorecard.reply_heard if scorecard.reply is None else scorecard.reply
    replies = {} if reply is None else {"reply METEOR": reply.meteor, "reply ROUGE-L": reply.rouge_l}
    return rates({"transcript WER": scorecard.transcript, "spoken reply WER": scorecard.spoken_reply}) | replies


def rates(found: Mapping[str, WordErrorRate | None]) -> dict[str, float]:
    return {name: rate.rate for name, rate in found.items() if rate is not None}


def held_out_agent_turns(config: DictConfig) -> list[Utterance]:
    """The agent turns of `config.items` held-out dialogs, at even distances. Raises InputError if there are none."""
    number = config["items"]  # `config.items` is a method
    if number is not None and number < 1:
        raise InputError(f"items={number}: give 1 or more, or null for all")
    return [item.agent for item in spread(read_held_out(config.held_out or PACKAGED_SET), number)]


def training_replies(corpus: str | None) -> list[str]:
    if corpus is None:
        return []
    return [turn.text for turn in read_speech_corpora([corpus], "train") if turn.role == "agent" and turn.text]


def services(dialogs_file: str | None) -> ServiceReplies | None:
    return None if dialogs_file is None else read_dialogs_file(dialogs_file)


def flite(voice: str) -> Synthesiser:
    synthesiser = Flite(voice)

    def speak(text: str) -> Waveform:
        spoken = synthesiser.speak(text)
        return Waveform(torch.from_numpy(spoken.samples).float() / 32768, spoken.sample_rate)

    speak("ready")  # what is wrong with it is told before the model is loaded
    return speak


@contextmanager
def bar(name: str) -> Iterator[Progress]:
    with tqdm(desc=name, unit="item") as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield progress

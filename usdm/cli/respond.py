"""A recorded or typed question to a spoken reply."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from usdm.audio import check_output_path, check_speech, read_audio, write_audio
from usdm.chain import SpokenDialogPipeline
from usdm.chain.choosing import chain_of
from usdm.chain.replies import unspoken
from usdm.cli import Figures, WorkFailed
from usdm.cli.model import chooser, load_pipeline
from usdm.config import ReplyKind
from usdm.runs import write_text
from usdm.tokens.layout import STAGES
from usdm.types import InputError, Sampling, SpokenReply, Turn, Waveform

DEFAULT_OUTPUT = "reply.wav"  # in a sweep each job has one of its own, in its folder
LONGEST_RECORDING = 600.0  # seconds; keeps a whole day out of memory before the model can tell its own limit


def run(config: DictConfig) -> Figures:
    speak = config.reply is ReplyKind.speech
    if not speak and Path(config.output).name != DEFAULT_OUTPUT:
        raise InputError(
            f"output={config.output} with reply=text: only a spoken reply has sound to write there; leave output out "
            "(trace=FILE.json keeps the text), or take reply=speech"
        )
    check_outputs(config, speak)
    if config.reference is not None and config.voice is not None:
        raise InputError(f"reference={config.reference} and voice={config.voice}: give one of them")
    question = read_question(config)
    reference = read_speech(config.reference) if config.reference else None
    history = read_history(config.history)
    pipeline = load_pipeline(config)
    answer = partial(streamed, pipeline) if config.stream else pipeline.respond
    reply = answer(
        question.samples if question else None,
        question.sample_rate if question else None,
        text=config.text,
        history=history,
        reference=reference,
        voice=config.voice,
        sampling=sampling(pipeline, config),
        decoder=replace(pipeline.settings.decoder, **given(config.decoding)),
        chain=chain_of(pipeline.own_chain(config.chain), config.candidates, chooser(config)),
        speak=speak,
        seed=config.seed,
    )
    tell(reply)
    if reply.waveform is not None:
        write_audio(config.output, reply.waveform, reply.sample_rate)
        seconds = reply.waveform.shape[-1] / reply.sample_rate
        first = "" if reply.first_sound is None else f", the first of it after {reply.first_sound:.2f} s"
        print(f"{config.output}: {seconds:.1f} s of speech, after {sum(reply.timings.values()):.1f} s of work{first}")
    if config.trace is not None:
        write_trace(config, reply, history, pipeline)
    if speak and (reason := unspoken(reply.agent_text, reply.agent_units)) is not None:
        raise WorkFailed(reason)
    return {"work_seconds": sum(reply.timings.values())}


def check_outputs(config: DictConfig, speak: bool) -> None:
    """Raises InputError for a file that could not be written, before any model is loaded."""
    paths = [check_output_path(config.output)] if speak else []
    paths += [check_output_path(config.trace, ".json")] if config.trace is not None else []
    recordings = {name: config[name] for name in ("input", "reference") if config[name] is not None}
    for path in paths:
        if same := [name for name, place in recordings.items() if Path(place).resolve() == path.resolve()]:
            raise InputError(f"{path} would replace the recording given as {same[0]}: choose another place")
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def read_question(config: DictConfig) -> Waveform | None:
    """The recording, or None for a typed question."""
    if (config.input is None) == (config.text is None):
        given = "both" if config.input is not None else "neither"
        raise InputError(f"input and text: {given} is given; give either input=RECORDING or text='WORDS'")
    return None if config.input is None else read_speech(config.input)


def read_speech(path: str) -> Waveform:
    recording = read_audio(path, max_seconds=LONGEST_RECORDING)
    try:
        check_speech(recording)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return recording


def read_history(traces: str | ListConfig | None) -> list[Turn]:
    """The dialog so far: a trace brings the turns before it and its own; of further traces each adds its own."""
    paths = [] if traces is None else [traces] if isinstance(traces, str) else list(traces)
    turns: list[Turn] = []
    for number, path in enumerate(paths):
        try:
            trace = json.loads(Path(path).read_bytes())
            earlier = [] if number else [Turn(turn["role"], turn["text"]) for turn in trace["history"]]
            turns += [*earlier, Turn("user", trace["user_text"]), Turn("agent", trace["agent_text"])]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"history={path}: not a trace of `usdm respond` ({type(error).__name__}: {error})"
            ) from error
    if any(turn.text is None for turn in turns):
        raise InputError(
            f"history={traces}: a turn has no text, since its chain wrote none; take another chain's trace"
        )
    return turns


def sampling(pipeline: SpokenDialogPipeline, config: DictConfig) -> dict[str, Sampling]:
    """The bundle's settings by stage, under the seed and what else was given."""
    own = pipeline.settings.sampling
    return {
        stage: replace(own.get(stage, Sampling()), **{"seed": config.seed, **given(config.sampling[stage])})
        for stage in STAGES
    }


def given(settings: DictConfig) -> dict[str, Any]:
    return {str(key): value for key, value in settings.items() if value is not None}


def streamed(pipeline: SpokenDialogPipeline, *question: Any, **options: Any) -> SpokenReply:
    """`pipeline.respond`, the sound made as a stream."""
    *_, reply = pipeline.stream(*question, **options)
    assert isinstance(reply, SpokenReply)  # a stream's last event
    return reply


def tell(reply: SpokenReply) -> None:
    if reply.user_text is not None:
        print(f"heard: {reply.user_text}")
    if reply.agent_text is not None:
        print(f"reply: {reply.agent_text}")
    for stage in reply.truncated:
        print(f"usdm respond: stage {stage} was cut off at its limit of tokens", file=sys.stderr)


def write_trace(config: DictConfig, reply: SpokenReply, history: list[Turn], pipeline: SpokenDialogPipeline) -> None:
    """Everything about the reply but its sound, as JSON; whole or not at all."""
    trace = {
        "user_text": reply.user_text,
        "agent_text": reply.agent_text,
        "user_units": None if reply.user_units is None else reply.user_units.tolist(),
        "agent_units": None if reply.agent_units is None else reply.agent_units.tolist(),
        "sample_rate": reply.sample_rate,
        "timings": dict(reply.timings),
        "first_sound": reply.first_sound,
        "truncated": list(reply.truncated),
        "model": pipeline.fingerprint,
        "commits": pipeline.commits,  # of the parts from the hub
        "seed": config.seed,
        "chain": config.chain,
        "input": config.input,
        "output": None if reply.waveform is None else config.output,
        "history": [{"role": turn.role, "text": turn.text} for turn in history],
    }
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in trace.items())
    write_text(config.trace, f"{{\n{lines}\n}}\n")

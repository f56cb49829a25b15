"""Conversations with a server in real time: who waits, who interrupts whom, what is remembered."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from data_prep.embedded_model.flite import Flite
from usdm.audio import resample
from usdm.cli import WorkFailed
from usdm.cli.evaluate import PACKAGED_SET
from usdm.conversation.client import converse_together
from usdm.conversation.full_duplex_bench import find_samples
from usdm.conversation.full_duplex_talk import talk_through
from usdm.conversation.report import Measurement, draw_timeline, measurement_table, timeline_json
from usdm.conversation.script import WIRE_RATE, draw_scripts
from usdm.conversation.timeline import added, figures
from usdm.data.speech_corpus import Utterance, read_speech_corpora
from usdm.runs import record, write_text
from usdm.types import InputError

TOKEN = "USDM_TOKEN"
BACKCHANNELS = ("uh huh.", "mm.", "right.", "ok.")
LONGEST_TURN = 8.0  # seconds


def run(config: DictConfig) -> None:
    # What is wrong with the input is told before a server is started.
    turns = user_turns(config.corpus or PACKAGED_SET, config.split)
    habits, lengths = instantiate(config.habits, _convert_="all"), instantiate(config.lengths)
    session = {str(key): value for key, value in instantiate(config.session, _convert_="all").items()}
    samples = find_samples(config.full_duplex_bench) if config.full_duplex_bench else []
    hums = backchannels() if habits.backchannel_share else []
    folder, token = Path(config.output_dir), os.environ.get(TOKEN) or None
    folder.mkdir(parents=True, exist_ok=True)
    measurements = []
    with server(config.url, list(config.server)) as url:
        for concurrency in config.concurrency:
            scripts = draw_scripts(turns, hums, config.conversations, habits, lengths, config.seed)
            timelines = asyncio.run(converse_together(url, scripts, session, concurrency, token, config.seed))
            place = folder / f"{concurrency}_at_a_time"
            place.mkdir(exist_ok=True)
            for timeline in timelines:
                write_text(place / f"{timeline.id}.json", timeline_json(timeline))
                draw_timeline(timeline, place / f"{timeline.id}.png")
            measurements.append(Measurement(concurrency, len(timelines), added([figures(each) for each in timelines])))
        bench = talk_through(url, samples, session, token, folder / "full_duplex_bench") if samples else None
    write_text(folder / "conversations.json", json.dumps([each.as_dict() for each in measurements], indent=1) + "\n")
    report = measurement_table(measurements) + ("" if bench is None else f"\n\n{bench}")
    write_text(folder / "conversations.md", report + "\n")
    record(folder, OmegaConf.to_container(config, resolve=True, enum_to_str=True), {}, {})  # type: ignore[arg-type]
    print(report)
    print(f"written to {folder}")


def user_turns(corpus: str | Path, split: str | None) -> list[Utterance]:
    """Raises InputError if there is none."""
    turns = [
        turn
        for turn in read_speech_corpora([corpus], split)
        if turn.role == "user" and turn.text and turn.duration <= LONGEST_TURN
    ]
    if not turns:
        raise InputError(f"{corpus}: no user turn of at most {LONGEST_TURN} s with text in split {split}")
    return turns


def backchannels() -> list[Tensor]:
    """(T,) float32 at 24 kHz each."""
    voice = Flite("rms")
    spoken = [voice.speak(words) for words in BACKCHANNELS]
    return [resample(torch.from_numpy(each.samples).float() / 32768, each.sample_rate, WIRE_RATE) for each in spoken]


@contextmanager
def server(url: str | None, arguments: list[str]) -> Iterator[str]:
    """The address of a server: the one that is given, or one of our own for as long as it is needed.

    Raises WorkFailed if that does not start.
    """
    if url is not None:
        yield url
        return
    command = [sys.executable, "-m", "usdm.cli.main", "serve", "port=0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        told = process.stdout.readline()
        if "http://" not in told:
            raise WorkFailed(f"{' '.join(command[2:])} did not start: {told.strip()}")
        yield told.split()[0].replace("http://", "ws://") + "/realtime"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()

"""A few items to hear and to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from usdm.audio import MelSettings, MelSpectrogram, read_audio, resample, write_audio
from usdm.chain import SpokenDialogPipeline
from usdm.evaluation.held_out import HeldOutItem
from usdm.types import Waveform

TITLE_CHARACTERS = 150
DYNAMIC_RANGE = 9.0  # in natural-log magnitude below the loudest point, about 78 dB


def save_examples(
    pipeline: SpokenDialogPipeline, items: Sequence[HeldOutItem], folder: Path, chain: str | None, seed: int
) -> None:
    """For each item `<id>.png`, its sounds one under another, and the two that the model made as WAV files."""
    if items:
        folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        question, agent = read_audio(item.user.audio), read_audio(item.agent.audio)
        reply = pipeline.respond(question.samples, question.sample_rate, history=item.history, chain=chain, seed=seed)
        said, reference = item.references
        resynthesis = pipeline.resynthesize(agent.samples, agent.sample_rate, seed=seed)
        write_audio(folder / f"{item.id}-resynthesis.wav", resynthesis.samples, resynthesis.sample_rate)
        panels = {
            f"user: {said}  |  heard: {reply.user_text or ''}": question,
            f"agent, recorded: {reference}": agent,
            "the same, units to sound": resynthesis,
        }
        if reply.waveform is not None:
            panels[f"reply: {reply.agent_text or ''}"] = Waveform(reply.waveform, reply.sample_rate)
            write_audio(folder / f"{item.id}-reply.wav", reply.waveform, reply.sample_rate)
        _spectrograms(panels).savefig(folder / f"{item.id}.png", dpi=90)


def _spectrograms(panels: Mapping[str, Waveform]) -> Figure:
    """Log-mel spectrograms on one time axis under their titles."""
    settings = MelSettings()
    mel_of = MelSpectrogram(settings)
    figure = Figure(figsize=(11, 2.2 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, sound) in zip(axes, panels.items(), strict=True):
        samples = resample(sound.samples.detach().float().cpu(), sound.sample_rate, settings.sample_rate)
        mel = mel_of(samples[None])[0].numpy()  # (mels, M)
        axis.imshow(
            mel,
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, sound.seconds, 0, settings.num_mels),
            vmin=mel.max() - DYNAMIC_RANGE,
        )
        axis.set_title(shorten(title, TITLE_CHARACTERS), loc="left", fontsize=10, parse_math=False)
        axis.set_ylabel("mel band")
    axes[-1].set_xlim(0, max(sound.seconds for sound in panels.values()))
    axes[-1].set_xlabel("seconds")
    return figure

"""A few items to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from usdm.audio import MelSettings, MelSpectrogram, read_audio, resample
from usdm.metrics.figures import Prediction, Reference
from usdm.types import Waveform

TITLE_CHARACTERS = 150
DYNAMIC_RANGE = 9.0  # in natural-log magnitude below the loudest point, about 78 dB


def save_examples(predictions: Sequence[Prediction], references: Mapping[str, Reference], folder: Path) -> None:
    """For each prediction `<id>.png`: question, recorded reply and own reply, one under another."""
    if predictions:
        folder.mkdir(parents=True, exist_ok=True)
    for prediction in predictions:
        reference = references[prediction.id]
        sounds = {
            f"user: {reference.user_text}  |  heard: {prediction.user_text or ''}": reference.user_audio,
            f"agent, recorded: {reference.agent_text}": reference.agent_audio,
            f"reply: {prediction.agent_text or ''}": prediction.audio,
        }
        panels = {title: read_audio(path) for title, path in sounds.items() if path is not None}
        _spectrograms(panels).savefig(folder / f"{prediction.id}.png", dpi=90)


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

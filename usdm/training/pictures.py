"""Pictures that trainers leave beside their figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from usdm.audio import MelSettings


def save_mel_picture(path: Path, mels: Mapping[str, Tensor], settings: MelSettings) -> None:
    """One log-mel spectrogram (num_mels, M) under another, on one colour scale, with their names."""
    figure = Figure(figsize=(10, 2.4 * len(mels)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(mels), 1, sharex=True, squeeze=False)[:, 0]
    lowest = min(mel.min().item() for mel in mels.values())
    highest = max(mel.max().item() for mel in mels.values())
    for panel, (name, mel) in zip(panels, mels.items(), strict=True):
        seconds = mel.shape[-1] / settings.frame_rate
        panel.imshow(
            mel.cpu().numpy(),
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, mel.shape[0]),
            vmin=lowest,
            vmax=highest,
        )
        panel.set_title(name)
        panel.set_ylabel("mel band")
    panels[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=80)

"""A reply to look at: what was said, over the sound's spectrogram."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from usdm.audio import MelSettings, MelSpectrogram, resample
from usdm.types import Waveform

BACKGROUND = "#0f172a"
INK = "#e2e8f0"
FAINT = "#94a3b8"
MARGIN = 0.18  # inches
CHARACTERS_A_LINE = 72
DYNAMIC_RANGE = 9.0  # in natural-log magnitude below the loudest point, about 78 dB
KILOHERTZ = (0.5, 1, 2, 4)  # labelled on the frequency axis


def reply_picture(waveform: Waveform, text: str) -> np.ndarray:
    """(height, width, 3) uint8: the log-mel spectrogram of the sound under its text.

    Raises InputError for sound of less than 17 ms, which has no spectrogram.
    """
    settings = MelSettings()
    samples = resample(waveform.samples.detach().float().cpu(), waveform.sample_rate, settings.sample_rate)
    mel = MelSpectrogram(settings)(samples[None])[0].numpy()  # (mels, M)
    lines = wrap(text, CHARACTERS_A_LINE) or [""]
    figure = Figure(
        figsize=(10, 3.5 + 0.36 * len(lines)),
        dpi=120,
        facecolor=BACKGROUND,
        layout=ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN),
    )
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(
        mel,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=(0, waveform.seconds, 0, settings.num_mels),
        vmin=mel.max() - DYNAMIC_RANGE,
    )
    axes.set_title("\n".join(lines), color=INK, fontsize=15, loc="left", pad=12, parse_math=False)
    axes.set_xlabel("seconds", color=FAINT)
    axes.set_yticks([_mel_band(1000 * khz, settings) for khz in KILOHERTZ], [f"{khz:g} kHz" for khz in KILOHERTZ])
    axes.tick_params(colors=FAINT, length=0)
    axes.spines[:].set_visible(False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _mel_band(hertz: float, settings: MelSettings) -> float:
    """Where a frequency lies on the axis of mel bands: the band whose filter peaks there."""
    peaks = MelSpectrogram(settings).filters.argmax(dim=1) * settings.sample_rate / settings.n_fft
    return float(np.interp(hertz, peaks.numpy(), np.arange(settings.num_mels) + 0.5))

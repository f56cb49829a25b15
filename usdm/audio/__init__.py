"""Sound files in and out, and the log-mel front end that decoder and vocoder share."""

from usdm.audio.io import check_output_path, check_speech, read_audio, resample, write_audio
from usdm.audio.mel import MelSettings, MelSpectrogram

__all__ = [
    "MelSettings",
    "MelSpectrogram",
    "check_output_path",
    "check_speech",
    "read_audio",
    "resample",
    "write_audio",
]

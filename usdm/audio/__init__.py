"""Sound files in and out, and the log-mel front end that decoder and vocoder share."""

from usdm.audio.channels import mix_down
from usdm.audio.io import check_output_path, check_speech, resample, write_audio
from usdm.audio.mel import MelSettings, MelSpectrogram
from usdm.audio.reading import read_audio

__all__ = [
    "MelSettings",
    "MelSpectrogram",
    "check_output_path",
    "check_speech",
    "mix_down",
    "read_audio",
    "resample",
    "write_audio",
]

"""Mel spectrograms to waveforms."""

from usdm.vocoder.batch import vocode_batch
from usdm.vocoder.bigvgan import BigVGANVocoder
from usdm.vocoder.loading import Vocoder, load_vocoder
from usdm.vocoder.streaming import StreamingVocoder
from usdm.vocoder.vocos import VocosSettings, VocosVocoder

__all__ = [
    "BigVGANVocoder",
    "StreamingVocoder",
    "Vocoder",
    "VocosSettings",
    "VocosVocoder",
    "load_vocoder",
    "vocode_batch",
]

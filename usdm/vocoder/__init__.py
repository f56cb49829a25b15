"""Mel spectrograms to waveforms."""

from usdm.vocoder.bigvgan import BigVGANVocoder
from usdm.vocoder.loading import Vocoder, load_vocoder
from usdm.vocoder.vocos import VocosSettings, VocosVocoder

__all__ = ["BigVGANVocoder", "Vocoder", "VocosSettings", "VocosVocoder", "load_vocoder"]

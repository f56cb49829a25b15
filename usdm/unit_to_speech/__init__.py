"""Units to sound: flow matching and a vocoder, a unit HiFi-GAN, or a codec's own decoder."""

from usdm.unit_to_speech.flow_matching import FlowMatchingToSpeech
from usdm.unit_to_speech.loading import load_unit_to_speech, needs_vocoder
from usdm.unit_to_speech.protocol import DecoderSampling, UnitToSpeech, UnitToSpeechStream

__all__ = [
    "DecoderSampling",
    "FlowMatchingToSpeech",
    "UnitToSpeech",
    "UnitToSpeechStream",
    "load_unit_to_speech",
    "needs_vocoder",
]

"""A codec's own decoder: its units back to the sound that they came from, timbre and all."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import PreTrainedConfig

from usdm.types import ReferenceVoice
from usdm.unit_to_speech.protocol import DecoderSampling, OneVoice, UnitToSpeechStream, refuse_voices
from usdm.unit_to_speech.windows import CodeStream, Context, Convolution, WindowStream, context_of
from usdm.units.codec import CodecTokenizer

DAC_KERNEL, DAC_DILATIONS = 7, (1, 3, 9)  # fixed by its code


class CodecToSpeech(OneVoice):
    """Made of the codec that tokenizes. Its units hold the voice, so there is none to choose."""

    def __init__(self, tokenizer: CodecTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    @property
    def num_units(self) -> int:
        return self.tokenizer.num_units

    @property
    def unit_rate(self) -> float:
        return self.tokenizer.unit_rate

    @property
    def sample_rate(self) -> int:
        return self.tokenizer.sample_rate

    def speak(self, units: Tensor) -> Tensor:
        """See `OneVoice`."""
        return self.tokenizer.decode(units)

    def stream(self, voice: ReferenceVoice | None, seed: int, sampling: DecoderSampling) -> UnitToSpeechStream:
        """Sound as soon as it is settled. A codec whose decoder looks at all frames waits for the last."""
        context = decoder_context(self.tokenizer.codec.config)
        if context is None:
            return super().stream(voice, seed, sampling)
        refuse_voices(self, [voice])
        codec = self.tokenizer
        window = WindowStream(codec.decode_frames, codec.hop, codec.frame_rate, context)
        return CodeStream(codec.frames, window)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CodecToSpeech:
        """The tokenizer's folder."""
        return cls(CodecTokenizer.from_pretrained(folder))


def decoder_context(config: PreTrainedConfig) -> Context | None:
    """Frames around one that its sound depends on; None: all of them."""
    if config.model_type == "dac":
        layers = [Convolution(DAC_KERNEL)]
        for ratio in config.upsampling_ratios:
            units = [Convolution(DAC_KERNEL, dilation) for dilation in DAC_DILATIONS]
            layers += [Convolution(2 * ratio, upsampling=ratio), *units]
        return context_of([*layers, Convolution(DAC_KERNEL)])
    if config.model_type in ("encodec", "mimi") and config.use_causal_conv and config.trim_right_ratio == 1.0:
        # An LSTM, or attention, sees all that came before. Reflection at the start shows the first convolution as many
        # frames as its kernel reaches over, and at most a frame more to those after it.
        return Context(left=None, right=config.kernel_size if config.pad_mode == "reflect" else 0)
    return None

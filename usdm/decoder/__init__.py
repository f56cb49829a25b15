"""Units to mel spectrograms by conditional flow matching."""

from usdm.decoder.decoder import UnitDecoder, UnitDecoderConfig
from usdm.decoder.frames import mel_frame_count, units_per_frame
from usdm.decoder.streaming import StreamingDecoder, StreamingSettings

__all__ = [
    "StreamingDecoder",
    "StreamingSettings",
    "UnitDecoder",
    "UnitDecoderConfig",
    "mel_frame_count",
    "units_per_frame",
]

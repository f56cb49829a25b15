"""Units to mel spectrograms by conditional flow matching."""

from usdm.decoder.decoder import UnitDecoder, UnitDecoderConfig
from usdm.decoder.frames import units_per_frame

__all__ = ["UnitDecoder", "UnitDecoderConfig", "units_per_frame"]

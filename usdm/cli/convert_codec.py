"""A neural codec as a unit tokenizer: its codes, laid out as one sequence of units."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli.stage import Stage
from usdm.units.codec import CodecTokenizer, make_codec_tokenizer


def tell(tokenizer: CodecTokenizer, config: DictConfig) -> None:
    print(f"{tokenizer.num_units} units, {tokenizer.unit_rate:g} a second, in {config.output_dir}")


run = Stage(make_codec_tokenizer, tell)

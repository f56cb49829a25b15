"""Ways from units to sound, side by side: words, voice, quality, melody, speed and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from usdm.chain.locations import find_parts
from usdm.cli import Figures
from usdm.cli.bars import bar
from usdm.cli.evaluate import held_out_agent_turns
from usdm.cli.model import load_asr, load_pipeline
from usdm.cli.respond import given
from usdm.cli.written import write_report
from usdm.evaluation.decoders import Contender, DecoderTable, compare_decoders
from usdm.metrics.quality import Dnsmos
from usdm.metrics.speaker import SpeakerEncoder
from usdm.unit_to_speech import load_unit_to_speech
from usdm.units import load_unit_tokenizer


def run(config: DictConfig) -> Figures:
    utterances = held_out_agent_turns(config)
    speakers = SpeakerEncoder() if config.speaker else None
    quality = Dnsmos() if config.quality else None
    asr = load_asr(config)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    found = list(contenders(config))
    with bar("items") as progress:
        table = compare_decoders(
            found,
            utterances,
            asr,
            speakers=speakers,
            quality=quality,
            seed=config.seed,
            progress=progress,
        )
    write_report(table, folder, "decoders")
    return figures(table)


def contenders(config: DictConfig) -> Iterator[Contender]:
    """The model's own decoder first, then those of `contenders`. Raises InputError for one that cannot be loaded."""
    pipeline = load_pipeline(config)
    yield Contender("model", pipeline.parts.units, pipeline.parts.speech, pipeline.settings.decoder)
    for entry in config.contenders:
        places = {part: entry[part] for part in ("units", "decoder", "vocoder")}
        folders = find_parts({part: place for part, place in places.items() if place is not None})
        yield Contender(
            entry.name,
            load_unit_tokenizer(folders["units"]) if "units" in folders else pipeline.parts.units,
            load_unit_to_speech(folders["decoder"], folders.get("vocoder")).eval(),
            replace(pipeline.settings.decoder, **given(entry.decoding)),
        )


def figures(table: DecoderTable) -> Figures:
    return {f"{row.name}_word_error_rate": row.word_errors.rate for row in table.rows}

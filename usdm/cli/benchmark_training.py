"""How fast training goes here: making the rows, in how much memory, and the language model's steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.cli.pretrain import find_llm
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer, read_tokenizer
from usdm.training.data_benchmark import benchmark_data
from usdm.training.lm_benchmark import benchmark_training
from usdm.training.memory_benchmark import MemoryUse, benchmark_memory


def run(config: DictConfig) -> Figures:
    find_llm(config)
    base = read_tokenizer(config.llm.tokenizer)
    vocabulary = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(base, config.shared.num_units))
    folder = Path(config.output_dir)
    for data in benchmark_data(
        vocabulary,
        folder / "data",
        corpus_units=list(config.corpus_units),
        max_length=config.data_row_length,
        rows=config.data_rows,
    ):
        print(
            f"rows made by way of {data.way:<6} from {data.corpus_units:>11,} units: "
            f"{data.tokens_per_second:>10,.0f} tokens/s, {data.fill:.1%} full, memory {data.peak_bytes / 1e6:,.0f} MB"
        )
    uses = benchmark_memory(
        vocabulary,
        folder / "data",
        utterances=list(config.memory_utterances),
        max_length=config.data_row_length,
        rows=config.data_rows,
    )
    print(memory_table(uses))
    torch.manual_seed(config.seed)
    speed = benchmark_training(
        instantiate(config.llm.model, vocabulary, _convert_="all"),
        vocabulary,
        folder,
        instantiate(config.loop, _convert_="all"),
        adapter=instantiate(config.adapter, _convert_="all"),
    )
    print(
        f"training {speed.parameters / 1e6:,.1f} M parameters, rows of {speed.max_length}: "
        f"{speed.tokens_per_second:,.0f} tokens/s, {speed.utilisation:.0%} of {speed.peak_flops / 1e12:.2f} TFLOPs "
        f"({speed.device})"
    )
    return {"tokens_per_second": speed.tokens_per_second, "utilisation": speed.utilisation}


def memory_table(uses: Sequence[MemoryUse]) -> str:
    """A line for each number of utterances, a column for each reader."""
    found = {(use.utterances, use.reader): use.bytes for use in uses}
    readers, sizes = (list(dict.fromkeys(names)) for names in zip(*((name, size) for size, name in found), strict=True))
    lines = ["  ".join([f"{'utterances':>10}", *(f"{reader:>15}" for reader in readers)])]
    for size in sizes:
        cells = (f"{found[size, reader] / 1e6:.1f} MB" for reader in readers)
        lines.append("  ".join([f"{size:>10,}", *(f"{cell:>15}" for cell in cells)]))
    return "\n".join(["memory beyond the imports, reading", *lines])

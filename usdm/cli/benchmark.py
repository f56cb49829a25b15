"""How fast a model answers, as ratios to the published procedure on the same weights."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

import usdm
from usdm.benchmark.benchmark import benchmark
from usdm.benchmark.report import benchmark_table, save_plot
from usdm.chain.requests import SynthesisRequest, read_requests
from usdm.cli import Figures
from usdm.cli.model import load_pipeline
from usdm.evaluation import read_held_out

PACKAGED_SET = Path(usdm.__file__).parent / "assets" / "held_out"
PACKAGED_SECONDS = (2.0, 4.0)  # questions of about 3 s
TABLE_FILE = "benchmark.md"


def run(config: DictConfig) -> Figures:
    questions = read_requests(config.questions) if config.questions else packaged_questions()
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(config)
    with tqdm(unit="answer") as shown:

        def progress(name: str) -> None:
            shown.set_description_str(name)
            shown.update()

        result = benchmark(
            pipeline,
            questions,
            limit=config.limit,
            repeats=config.repeats,
            warmup=config.warmup,
            concurrency=list(config.concurrency),
            rounds=config.rounds,
            batch=config.batch,
            batch_reference=config.batch_reference,
            capacity=config.capacity,
            decoding_tokens=config.decoding_tokens,
            decoding_context=config.decoding_context,
            seed=config.seed,
            progress=progress,
        )
    table = benchmark_table(result)
    (folder / TABLE_FILE).write_text(table, encoding="utf-8")
    written = result.save(folder), save_plot(result, folder)
    print(table)
    print(f"written: {', '.join(map(str, written))}")
    return {figure.name: figure.ours for figure in result.figures}


def packaged_questions() -> list[SynthesisRequest]:
    """The user turns of the packaged held-out dialogs that last about 3 s."""
    shortest, longest = PACKAGED_SECONDS
    turns = [item.user for item in read_held_out(PACKAGED_SET)]
    return [SynthesisRequest(turn.id, audio=turn.audio) for turn in turns if shortest <= turn.duration <= longest]

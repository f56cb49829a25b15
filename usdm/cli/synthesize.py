"""Any number of questions to spoken replies: batched, in shards, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from omegaconf import DictConfig
from tqdm import tqdm

from usdm.chain.choosing import chain_of
from usdm.chain.requests import read_requests
from usdm.chain.synthesis import Progress, SynthesisReport, synthesize
from usdm.cli import Figures, WorkFailed
from usdm.cli.model import chooser, load_pipeline
from usdm.cli.respond import given, sampling
from usdm.cli.stage import numbers

FAILURES_TOLD = 5


def run(config: DictConfig) -> Figures:
    requests = read_requests(config.requests)  # what is wrong with them is told before the model is loaded
    pipeline = load_pipeline(config)
    with bar(config.shard, config.num_shards) as progress:
        report = synthesize(
            pipeline,
            requests,
            config.output_dir,
            sampling=sampling(pipeline, config),
            decoder=replace(pipeline.settings.decoder, **given(config.decoding)),
            chain=chain_of(pipeline.own_chain(config.chain), config.candidates, chooser(config)),
            seed=config.seed,
            capacity=config.capacity,
            encode_batch=config.encode_batch,
            decode_batch=config.decode_batch,
            shard=config.shard,
            num_shards=config.num_shards,
            retry_errors=config.retry_errors,
            overwrite=config.overwrite,
            progress=progress,
        )
    tell(report)
    if report.failed:
        told = "\n".join(f"  {failure}" for failure in report.failed[:FAILURES_TOLD])
        failure = WorkFailed(
            f"{len(report.failed)} of {report.requests} requests failed; their lines say why under `error`, and "
            f"retry_errors=true tries them again:\n{told}"
        )
        failure.figures = numbers(report)
        raise failure
    return numbers(report)


@contextmanager
def bar(shard: int, num_shards: int) -> Iterator[Progress]:
    """Requests done, replies a second, seconds of speech a second, and the time that is left."""
    name = "synthesize" if num_shards == 1 else f"synthesize {shard} of {num_shards}"
    with tqdm(desc=name, unit="reply") as shown:
        start = time.perf_counter()

        def progress(done: int, total: int, seconds: float) -> None:
            if shown.total is None:  # what earlier runs have done is not this one's speed
                shown.reset(total)
                shown.initial = shown.n = done
            shown.set_postfix_str(f"speech {seconds / (time.perf_counter() - start):.1f} s/s", refresh=False)
            shown.update(done - shown.n)

        yield progress


def tell(report: SynthesisReport) -> None:
    done = report.requests - report.earlier
    print(
        f"{done} of {report.requests} requests done in {report.work_seconds:.1f} s, {report.earlier} were done before: "
        f"{report.seconds:.1f} s of speech, {done / report.work_seconds:.2f} replies/s"
    )
    print(f"results in {report.results}" if report.results else "other shards have still to end")

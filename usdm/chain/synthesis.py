"""Batch synthesis: thousands of questions to spoken replies, whatever ends the run in between."""

from __future__ import annotations

import glob
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from usdm.chain.choosing import ChoosingChain
from usdm.chain.pipeline import SpokenDialogPipeline
from usdm.chain.prefetch import prefetch
from usdm.chain.requests import SynthesisRequest
from usdm.chain.stages import LanguageModelChain, check_stages
from usdm.chain.synthesis_folder import ShardFolder
from usdm.chain.synthesis_results import RESULTS_FILE, SHARDS_FOLDER, ids_with_results, merge_shards
from usdm.chain.synthesis_stages import answer, chunks, on_own_stream, prepare, voice
from usdm.runs import Arguments, claim, read_lines
from usdm.tokens.layout import STAGES
from usdm.types import InputError, Sampling
from usdm.unit_to_speech import DecoderSampling

logger = logging.getLogger(__name__)

ACCELERATOR_BATCH = 16  # rows; a CPU is busy with one, so there every sound is made as if alone

Progress = Callable[[int, int, float], None]  # requests done, requests in all, seconds of speech made by this run

VOICES_TOLD = 5  # requests that a message names


@dataclass(frozen=True)
class SynthesisReport:
    """What a run, or a shard of one, came to."""

    requests: int  # of this shard
    earlier: int  # done by earlier runs
    seconds: float  # of speech made by this run
    work_seconds: float  # that it took
    failed: tuple[str, ...]  # "id: why", of this run and of earlier ones
    results: Path | None  # the final file; None while other shards are at work


def synthesize(
    pipeline: SpokenDialogPipeline,
    requests: Sequence[SynthesisRequest],
    output_dir: str | Path,
    *,
    sampling: Mapping[str, Sampling] | None = None,
    decoder: DecoderSampling | None = None,
    chain: str | LanguageModelChain | ChoosingChain | None = None,
    seed: int = 0,
    capacity: int = 32,
    encode_batch: int | None = None,
    decode_batch: int | None = None,
    shard: int = 0,
    num_shards: int = 1,
    retry_errors: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, total, seconds: None,
) -> SynthesisReport:
    """Write `<id>.wav` for every request, and a line about it to `results.jsonl`.

    Encoder, language model, and decoder with vocoder work at the same time on different requests, each on many at
    once. A request that cannot be answered gets a line with an `error`. The same call again goes on where the last
    one ended, however it ended: every request is done once. A sequence of the language model does not depend on
    what else is in the batch.

    Args:
        sampling: of single stages ("transcribe", "respond", "speak"), instead of the bundle's.
        decoder: instead of the bundle's.
        chain: name of a layout; None is the one that the model was trained on. Or a chain of this pipeline, such as
            one that chooses among several answers.
        seed: of requests without one of their own.
        capacity: sequences that the language model writes at once.
        encode_batch: recordings at once; None is 1 on a CPU and 16 elsewhere.
        decode_batch: replies at once; None as above. With 1, the bytes of a WAV file do not depend on the others.
        shard: does the requests shard, shard + num_shards, ...; its lines are in `results/` until all shards are
            done, and then in `results.jsonl` with those of the others.
        retry_errors: try again what failed before.
        overwrite: delete results of another model, of other settings, or of requests that are gone or have changed.

    Raises:
        InputError: before any work, if the folder has results of another model, other settings or other requests,
            or a request would overwrite its own question; later on, if the folder cannot be written to any more.
            What was finished by then is kept.
    """
    if not 0 <= shard < num_shards:
        raise InputError(f"shard={shard} of num_shards={num_shards}: the shards are 0..{num_shards - 1}")
    for name, number in (("capacity", capacity), ("encode_batch", encode_batch), ("decode_batch", decode_batch)):
        if number is not None and number < 1:
            raise InputError(f"{name}={number}: it must be 1 or more")
    folder = Path(output_dir)
    _check_requests(pipeline, requests, folder)
    drawn = _sampling(pipeline, sampling, seed)
    decoder = decoder or pipeline.settings.decoder
    answering = pipeline.own_chain(chain) if chain is None or isinstance(chain, str) else chain
    settings = _settings(pipeline, drawn, decoder, answering, seed, num_shards)
    chosen_by = answering.identity if isinstance(answering, ChoosingChain) else Arguments()
    written = [RESULTS_FILE, SHARDS_FOLDER, *(glob.escape(f"{name}.wav") for name in ids_with_results(folder))]
    with claim(
        folder, {**settings, **chosen_by.settings}, chosen_by.inputs, results=written, overwrite=overwrite, shared=True
    ) as claimed:
        if overwrite:
            for gone in {*ids_with_results(folder)} - {request.id for request in requests}:
                (folder / f"{gone}.wav").unlink(missing_ok=True)
        own = requests[shard::num_shards]
        start, seconds = time.perf_counter(), 0.0
        usual = 1 if pipeline.parts.speech.device.type == "cpu" else ACCELERATOR_BATCH
        with closing(
            ShardFolder(folder, own, shard, num_shards, pipeline.sample_rate, retry_errors, overwrite)
        ) as files:
            todo = [request for request in own if request.id not in files.done]
            if todo:
                claimed.reopen()
            done, failed = len(files.done), list(files.failed)
            logger.info("%s: %d of %d requests are done already", folder, done, len(own))
            progress(done, len(own), seconds)
            prepared = prefetch(prepare(pipeline, todo, encode_batch or usual), capacity)
            answered = prefetch(answer(prepared, answering, drawn, capacity), 2 * (decode_batch or usual))
            with closing(prepared), closing(answered), on_own_stream(pipeline):
                for batch in chunks(answered, decode_batch or usual):
                    results = files.write(voice(pipeline, batch, decoder, seed))
                    done += len(results)
                    seconds += sum(result.seconds for result in results)
                    failed += [f"{result.id}: {result.error}" for result in results if result.error is not None]
                    progress(done, len(own), seconds)
        counts = [len(requests[number::num_shards]) for number in range(num_shards)]
        merged = num_shards == 1 or merge_shards(folder, counts)
        if merged:
            claimed.finish(_figures(folder / RESULTS_FILE))
        return SynthesisReport(
            requests=len(own),
            earlier=len(own) - len(todo),
            seconds=seconds,
            work_seconds=time.perf_counter() - start,
            failed=tuple(failed),
            results=folder / RESULTS_FILE if merged else None,
        )


def _figures(results: Path) -> dict[str, float]:
    rows = list(read_lines(results))
    failed = sum(row["error"] is not None for row in rows)
    return {"requests": len(rows), "failed": failed, "seconds": round(sum(row["seconds"] for row in rows), 3)}


def _check_requests(pipeline: SpokenDialogPipeline, requests: Sequence[SynthesisRequest], folder: Path) -> None:
    """Raises InputError for voices that the model lacks, and for questions where the replies would be."""
    if len(ids := {request.id for request in requests}) < len(requests):
        raise InputError(f"{len(requests)} requests have {len(ids)} different ids; ids name files, so make them differ")
    if unknown := [each for each in requests if each.voice is not None and each.voice not in pipeline.voices]:
        asked = ", ".join(f"{each.id} in {each.voice}" for each in unknown[:VOICES_TOLD])
        raise InputError(
            f"{len(unknown)} requests are to be said in voices that this model lacks ({asked}); it has "
            f"{', '.join(pipeline.voices) or 'none by name'}"
        )
    replies = {f"{request.id}.wav" for request in requests}
    own = folder.resolve()
    for request in requests:
        for path in (request.audio, request.reference):
            if path is not None and path.name in replies and (request.folder / path).parent.resolve() == own:
                raise InputError(
                    f"{folder}: the reply {path.name} would replace a recording of the requests; take another folder"
                )


def _sampling(
    pipeline: SpokenDialogPipeline, sampling: Mapping[str, Sampling] | None, seed: int
) -> dict[str, Sampling]:
    """The bundle's settings of every stage under the seed, unless others are given."""
    own = pipeline.settings.sampling
    drawn = {stage: replace(own.get(stage, Sampling()), seed=seed) for stage in STAGES} | dict(sampling or {})
    check_stages(drawn)
    return drawn


def _settings(
    pipeline: SpokenDialogPipeline,
    sampling: Mapping[str, Sampling],
    decoder: DecoderSampling,
    chain: LanguageModelChain | ChoosingChain,
    seed: int,
    num_shards: int,
) -> dict[str, Any]:
    """All that the results depend on beside the requests."""
    return {
        "model": pipeline.fingerprint,
        "precision": pipeline.precision,
        "chain": chain.name,
        "sampling": {stage: asdict(settings) for stage, settings in sampling.items()},
        "decoder": asdict(decoder),
        "voice": pipeline.settings.voice,
        "seed": seed,
        "num_shards": num_shards,
    }

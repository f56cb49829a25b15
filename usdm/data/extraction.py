"""`extract_units`: speech corpora -> a unit corpus, shard by shard, resumable."""

from __future__ import annotations

import logging
import multiprocessing
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from usdm.audio.variation import SoundVariation
from usdm.data.speech_corpus import Sound, Utterance, read_speech_corpora
from usdm.data.unit_corpus import UnitCorpus, UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.interleave import spoken_form, spoken_words
from usdm.types import InputError
from usdm.units import UnitExtractor

logger = logging.getLogger(__name__)

_Heard = tuple[Sound, bool]  # a sound, and whether a user says it


@dataclass(frozen=True)
class ExtractionReport:
    """What became of the utterances."""

    utterances: int
    units: int
    without_words: int  # no word times: not for interleaving
    failed: tuple[str, ...]  # one message an utterance


@dataclass(frozen=True)
class _Shard:
    path: Path
    extractor: str
    utterances: list[Utterance]
    batch_seconds: float
    variation: SoundVariation | None
    seed: int


def extract_units(
    corpora: Sequence[str],
    extractor: str,
    output_dir: str,
    *,
    shard_utterances: int = 1000,
    batch_seconds: float = 60.0,
    variation: SoundVariation | None = None,
    seed: int = 0,
    processes: int = 1,
    job: int = 0,
    num_jobs: int = 1,
) -> ExtractionReport:
    """Write `output_dir/00000.parquet`, ...; shards that are there already are kept.

    Args:
        corpora: speech corpus folders (see `usdm.data.speech_corpus`).
        extractor: folder of a `UnitExtractor`.
        batch_seconds: sound that goes through the encoder at once; utterances of like length go together.
        variation: of the sound of users' turns, so that a language model learns how voices that the encoder does not
            know come out as units. Ids and dialogs are then named after `seed` and can be read beside the plain ones'.
        seed: of the variation.
        processes: each with one CPU thread.
        job: of `num_jobs` that share the work, on as many machines; each takes every `num_jobs`-th shard. The report
            is of this job's own.

    Raises:
        InputError: `job` is not one of `num_jobs`, a manifest or the extractor is missing, shards of another
            extractor or variation lie in `output_dir`, or `variation` changes the speed, which word times do not
            follow.
    """
    if variation is not None and variation.speed:
        raise InputError(
            f"variation.speed={variation.speed}: words would no longer be where the corpus says; give 0 here and let "
            "fine-tuning stretch the units (noise.stretch)"
        )
    if not 0 <= job < num_jobs:
        raise InputError(f"job={job} of num_jobs={num_jobs}: jobs are numbered from 0 to {num_jobs - 1}")
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    utterances = read_speech_corpora(corpora)
    if present := sorted(folder.glob("*.parquet")):
        ours = unit_source(UnitExtractor.from_pretrained(extractor))
        kept = UnitCorpus(present)
        ours.check(kept.source, extractor, output_dir)
        _check_names(kept, _prefix(variation, seed), output_dir)
    shards = [
        _Shard(path, extractor, utterances[start : start + shard_utterances], batch_seconds, variation, seed)
        for start in range(0, len(utterances), shard_utterances)
        for path in [folder / f"{start // shard_utterances:05d}.parquet"]
    ]
    mine = shards[job::num_jobs]
    todo = [shard for shard in mine if not shard.path.exists()]
    logger.info("%d of %d shards are there already", len(mine) - len(todo), len(mine))
    failed: list[str] = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for messages in tqdm(
            pool.imap_unordered(_extract_shard, todo), total=len(todo), unit="shard", desc="extract_units"
        ):
            failed += messages
    for message in failed:
        logger.warning("left out: %s", message)
    rows = units = without_words = 0
    for utterance in UnitCorpus([shard.path for shard in mine]).utterances() if mine else ():
        rows += 1
        units += len(utterance.units)
        without_words += not utterance.words
    return ExtractionReport(rows, units, without_words, tuple(failed))


def unit_source(extractor: UnitExtractor) -> UnitSource:
    """What a corpus of this extractor's units says about itself."""
    return UnitSource(extractor.num_units, extractor.unit_rate, extractor.centroid_hash)


@lru_cache(maxsize=1)
def _extractor(folder: str) -> UnitExtractor:
    torch.set_num_threads(1)
    return UnitExtractor.from_pretrained(folder)


def _extract_shard(shard: _Shard) -> list[str]:
    extractor = _extractor(shard.extractor)
    failed: list[str] = []
    units: dict[_Heard, np.ndarray] = {}  # several turns may share one
    unique = {_heard(utterance): utterance for utterance in shard.utterances}
    for batch in _batches(sorted(unique.values(), key=lambda utterance: utterance.duration), shard.batch_seconds):
        units.update(_extract_batch(shard, extractor, batch, failed))
    with UnitCorpusWriter(shard.path, unit_source(extractor)) as writer:
        for utterance in shard.utterances:
            if _heard(utterance) in units:
                row = _row(utterance, units[_heard(utterance)], extractor.unit_rate)
                writer.write(_renamed(row, _prefix(shard.variation, shard.seed)))
    return failed


def _heard(utterance: Utterance) -> _Heard:
    """What an utterance's units depend on: users' sound may be varied, where others' is not."""
    return utterance.sound, utterance.role == "user"


def _prefix(variation: SoundVariation | None, seed: int) -> str:
    """Before the ids and dialogs of varied turns, so that they are told from the plain ones."""
    return "" if variation is None else f"varied{seed}-"


def _renamed(row: UnitUtterance, prefix: str) -> UnitUtterance:
    return replace(row, id=prefix + row.id, dialog=row.dialog and prefix + row.dialog)


def _check_names(corpus: UnitCorpus, prefix: str, folder: str) -> None:
    """Shards that are kept are of the same variation as those to come."""
    for first in islice(corpus.utterances(), 1):
        if re.match(r"(varied\d+-)?", first.id)[0] != prefix:  # type: ignore[index]  # it matches anything
            raise InputError(
                f"{folder} has units of another variation: {first.id!r} is there, and what is asked for would be "
                f"called {prefix}...; give another output_dir"
            )


def _batches(utterances: Sequence[Utterance], seconds: float) -> list[list[Utterance]]:
    """Consecutive utterances, sorted by length, so that the longest times their number stays below `seconds`."""
    batches: list[list[Utterance]] = []
    for utterance in utterances:
        if not batches or utterance.duration * (len(batches[-1]) + 1) > seconds:
            batches.append([])
        batches[-1].append(utterance)
    return batches


def _extract_batch(
    shard: _Shard, extractor: UnitExtractor, batch: Sequence[Utterance], failed: list[str]
) -> dict[_Heard, np.ndarray]:
    waveforms = {}
    for utterance in batch:
        try:
            samples = utterance.read(extractor.sample_rate).samples
            if shard.variation is not None and utterance.role == "user":
                random = np.random.default_rng((shard.seed, zlib.crc32(utterance.id.encode())))
                samples, _ = shard.variation.vary(samples, extractor.sample_rate, random)
            waveforms[_heard(utterance)] = samples
        except InputError as error:
            failed.append(str(error))
    if not waveforms:
        return {}
    extracted = extractor(list(waveforms.values()))
    return {heard: row.numpy().astype(np.uint16) for heard, row in zip(waveforms, extracted, strict=True)}


def _row(utterance: Utterance, units: np.ndarray, unit_rate: int) -> UnitUtterance:
    spoken = None
    if any(spoken_form(word.text) for word in utterance.words):
        spoken = spoken_words(utterance.words, len(units), unit_rate)
    return UnitUtterance(
        id=utterance.id,
        speaker=utterance.speaker,
        role=utterance.role,
        dialog=utterance.dialog,
        turn=utterance.turn,
        split=utterance.split,
        text=utterance.text or "",
        units=units,
        words=spoken.words if spoken else (),
        word_ends=spoken.ends if spoken else np.empty(0, np.int32),
    )

"""`extract_units`: speech corpora -> a unit corpus, in shards that know which utterances they hold."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from usdm.audio.augmentation import SoundAugmentation
from usdm.data.speech_corpus import Sound, Utterance, check_ids, manifest_files, parse_utterance
from usdm.data.unit_corpus import UnitCorpus, UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.interleave import spoken_form, spoken_words
from usdm.runs import Shards, Task, claim, in_processes
from usdm.types import InputError
from usdm.units import UnitTokenizer, load_unit_tokenizer
from usdm.units.loading import tokenizer_class

SUFFIX = ".parquet"

_Heard = tuple[Sound, str | None]  # what units depend on: a sound, and where it is varied the utterance's id
_Units = NDArray[np.uint16] | InputError  # (U,), or why there are none


@dataclass(frozen=True)
class ExtractionReport:
    """What lies in the folder now, of all jobs, and what does not."""

    utterances: int
    units: int
    without_words: int  # no word times: not for interleaving
    missing: int  # utterances of the corpora that other jobs have still to extract
    failed: tuple[str, ...]  # a message for each utterance that this job could not extract, now or earlier


def extract_units(
    corpora: Sequence[str | Path],
    extractor: str | Path,
    output_dir: str,
    *,
    shard_utterances: int = 1000,
    batch_seconds: float = 60.0,
    augmentation: SoundAugmentation | None = None,
    seed: int = 0,
    processes: int = 1,
    device: str = "cpu",
    job: int = 0,
    num_jobs: int = 1,
    retry_errors: bool = False,
    overwrite: bool = False,
) -> ExtractionReport:
    """Write the units of utterances that have none yet into Parquet files in `output_dir`.

    The corpora may have grown since an earlier run. `shard_utterances`, `batch_seconds`, `processes` and the jobs may
    change too: an utterance's units do not depend on those that are extracted with it.

    Args:
        corpora: speech corpus folders (see `usdm.data.speech_corpus`).
        extractor: folder of a `UnitTokenizer`, of whichever kind.
        batch_seconds: sound that goes through the encoder at once; utterances of like length go together.
        augmentation: of the sound of users' turns, so that a language model learns how voices that the encoder does not
            know come out as units. Ids and dialogs are then named after `seed` and can be read beside the plain ones'.
        seed: of the augmentation.
        processes: one is this one, with all its threads; of several each has one thread.
        device: of the encoder. With "cuda" each process takes the next GPU, in turn.
        job: of `num_jobs` that share the work, on as many machines; each takes every `num_jobs`-th shard.
        retry_errors: utterances that failed are tried again.
        overwrite: delete what another extractor or augmentation made, or what was made of utterances that are gone.

    Raises:
        InputError: `job` is not one of `num_jobs`, a manifest or the extractor is missing, two utterances have one id,
            units of another extractor or augmentation, or of utterances that are gone or changed, lie in `output_dir`,
            or `augmentation` changes the speed, which word times do not follow.
    """
    if augmentation is not None and augmentation.speed:
        raise InputError(
            f"augmentation.speed={augmentation.speed}: words would no longer be where the corpus says; give 0 here and "
            "let fine-tuning stretch the units (noise.stretch)"
        )
    manifests = manifest_files(corpora)
    check_ids(manifests)
    tokenizer_class(extractor)  # that it is there
    with claim(
        output_dir,
        {"augmentation": None if augmentation is None else {**asdict(augmentation), "seed": seed}},
        {"corpora": list(corpora), "extractor": extractor},
        results=(f"*{SUFFIX}", "rows/*"),
        grows=("corpora",),
        overwrite=overwrite,
        shared=True,
    ) as claimed:
        shards = Shards(output_dir, SUFFIX)
        share = shards.share(
            manifests, shard_utterances, job=job, num_jobs=num_jobs, overwrite=overwrite, retry_failed=retry_errors
        )
        worker = partial(_Worker, shards, str(extractor), batch_seconds, augmentation, seed, device)
        made = in_processes(worker, share.tasks, processes)
        for _ in tqdm(made, total=len(share.tasks), unit="shard", desc="extract_units"):
            pass
        outcome = shards.outcome(share)
        failed = tuple(f"{row.id}: {row.message}" for row in outcome.failed)
        report = ExtractionReport(*_count(Path(output_dir)), outcome.missing, failed)
        if not report.missing:
            claimed.finish({**asdict(report), "failed": len(failed)})
    return report


def unit_source(tokenizer: UnitTokenizer) -> UnitSource:
    """What a corpus of this tokenizer's units says about itself."""
    return UnitSource(tokenizer.num_units, tokenizer.unit_rate, tokenizer.identity)


def device_of_process(device: str, number: int) -> str:
    """ "cuda" as one of this machine's GPUs, in turn. Raises InputError if there is none."""
    if device != "cuda":
        return device
    if not (count := torch.cuda.device_count()):
        raise InputError("device=cuda: this machine has no GPU that PyTorch can use; give device=cpu")
    return f"cuda:{number % count}"


class _Worker:
    """Makes shards, in one process."""

    def __init__(
        self,
        shards: Shards,
        extractor: str,
        batch_seconds: float,
        augmentation: SoundAugmentation | None,
        seed: int,
        device: str,
        number: int,
    ) -> None:
        self.shards, self.batch_seconds, self.augmentation, self.seed = shards, batch_seconds, augmentation, seed
        self.tokenizer = load_unit_tokenizer(extractor).to(device_of_process(device, number))
        self.source = unit_source(self.tokenizer)
        # Before the ids and dialogs of varied turns, so that they are told from the plain ones.
        self.prefix = "" if augmentation is None else f"varied{seed}-"

    def __call__(self, task: Task) -> None:
        with self.shards.making(task) as (part, failed):
            utterances = [parse_utterance(path, line) for path, line in task.rows]
            units = self._units({self._heard(utterance): utterance for utterance in utterances})
            with UnitCorpusWriter(part, self.source) as writer:
                for utterance in utterances:
                    try:
                        writer.write(self._row(utterance, units[self._heard(utterance)]))
                    except InputError as error:
                        failed[utterance.id] = str(error)

    def _heard(self, utterance: Utterance) -> _Heard:
        """Several turns may share a sound, but each user draws an augmentation of his own."""
        return utterance.sound, utterance.id if self._is_varied(utterance) else None

    def _is_varied(self, utterance: Utterance) -> bool:
        return self.augmentation is not None and utterance.role == "user"

    def _units(self, utterances: Mapping[_Heard, Utterance]) -> dict[_Heard, _Units]:
        units: dict[_Heard, _Units] = {}
        for batch in _batches(sorted(utterances.values(), key=lambda each: each.duration), self.batch_seconds):
            waveforms: dict[_Heard, Tensor] = {}
            for utterance in batch:
                try:
                    waveforms[self._heard(utterance)] = self._sound(utterance)
                except InputError as error:
                    units[self._heard(utterance)] = error
            units |= zip(waveforms, self._extract(list(waveforms.values())), strict=True)
        return units

    def _sound(self, utterance: Utterance) -> Tensor:
        """(T,). Raises InputError if it cannot be read."""
        samples = utterance.read(self.tokenizer.sample_rate).samples
        if self.augmentation is not None and self._is_varied(utterance):
            random = np.random.default_rng((self.seed, zlib.crc32(utterance.id.encode())))
            samples, _ = self.augmentation.vary(samples, self.tokenizer.sample_rate, random)
        return samples

    def _extract(self, waveforms: Sequence[Tensor]) -> list[_Units]:
        """One that no units can be made of does not take the others with it."""
        try:
            return [row.numpy().astype(np.uint16) for row in self.tokenizer(waveforms)]
        except InputError as error:
            if len(waveforms) == 1:
                return [error]
            return [units for waveform in waveforms for units in self._extract([waveform])]

    def _row(self, utterance: Utterance, units: _Units) -> UnitUtterance:
        """Raises InputError if there are no units, or the words are not in the order of their times."""
        if isinstance(units, InputError):
            raise units
        row = _row(utterance, units, self.tokenizer)
        return replace(row, id=self.prefix + row.id, dialog=row.dialog and self.prefix + row.dialog)


def _batches(utterances: Sequence[Utterance], seconds: float) -> Iterator[list[Utterance]]:
    """Consecutive utterances, sorted by length, so that the longest times their number stays below `seconds`."""
    batch: list[Utterance] = []
    for utterance in utterances:
        if batch and utterance.duration * (len(batch) + 1) > seconds:
            yield batch
            batch = []
        batch.append(utterance)
    if batch:
        yield batch


def _row(utterance: Utterance, units: NDArray[np.uint16], tokenizer: UnitTokenizer) -> UnitUtterance:
    spoken, together = None, tokenizer.units_per_frame
    if any(spoken_form(word.text) for word in utterance.words):
        spoken = spoken_words(utterance.words, len(units) // together, tokenizer.unit_rate / together)
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
        word_ends=spoken.ends * together if spoken else np.empty(0, np.int32),
    )


def _count(folder: Path) -> tuple[int, int, int]:
    """Utterances, units, and utterances without words of a unit corpus, of which no unit is read."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        return 0, 0, 0
    corpus = UnitCorpus(files)
    words = [pc.list_value_length(corpus.read([group], ["word_ends"])["word_ends"]) for group in corpus.groups]
    lengths = np.concatenate([np.empty(0, np.int32), *(rows.to_numpy() for rows in words)])
    return len(lengths), sum(group.units for group in corpus.groups), int((lengths == 0).sum())

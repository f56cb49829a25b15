"""The folder that a batch synthesis fills: what is in it already, and how more gets there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile

from usdm.audio import write_audio
from usdm.chain.journal import Journal, SynthesisResult, has_results, shard_file
from usdm.chain.requests import SynthesisRequest
from usdm.chain.synthesis_stages import Voiced
from usdm.types import InputError

SETTINGS_FILE = "synthesis.json"
BYTES_PER_SAMPLE = 2  # of the WAV files
TOLD = 10  # ids in a message


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Record what the results depend on. Raises InputError if the folder has results that depend on something else."""
    path = folder / SETTINGS_FILE
    ours = dict(_flat(settings))
    if path.exists() and has_results(folder):
        try:
            theirs = dict(_flat(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path}: not the settings of a synthesis ({error}); choose another output_dir") from error
        differing = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        if differing:
            told = "\n".join(f"  {key}: {theirs.get(key)} there, {ours.get(key)} now" for key in differing)
            raise InputError(
                f"{folder} has results that were made differently:\n{told}\n"
                "choose another output_dir, or the same settings"
            )
        return
    # Shards may get here at once: each writes the same, whole.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Values under their full keys, dots between them."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs


class ShardFolder:
    """One shard's part of the folder, for as long as the shard is at work.

    Raises InputError if another run does the same shard, or if the folder has results of other requests.
    """

    def __init__(
        self,
        folder: Path,
        requests: Sequence[SynthesisRequest],
        shard: int,
        num_shards: int,
        sample_rate: int,
        retry_errors: bool,
    ) -> None:
        self.folder = folder
        self.done: set[str] = set()  # ids that earlier runs have done
        self.failed: list[str] = []  # "id: why", of earlier runs
        self._sample_rate = sample_rate
        self._retry_errors = retry_errors
        self._unfinished = folder / f".unfinished-{shard:05d}-of-{num_shards:05d}"
        self._journal = Journal(shard_file(folder, shard, num_shards))
        try:
            self._check_requests(requests)
            self._journal.forget(self._keep)
            shutil.rmtree(self._unfinished, ignore_errors=True)
            self._unfinished.mkdir()
        except BaseException:
            self._journal.close()
            raise

    def write(self, batch: Sequence[Voiced]) -> list[SynthesisResult]:
        """Sounds first, then the lines that say that they are there.

        Raises InputError if the disk does not take them; what was written before stays.
        """
        results = [self._result(voiced) for voiced in batch]
        try:
            for voiced, result in zip(batch, results, strict=True):
                if voiced.sound is not None:
                    part = self._unfinished / f"{result.id}.wav"
                    write_audio(part, voiced.sound, self._sample_rate)
                    os.replace(part, self.folder / part.name)
            self._journal.append(results)
        except (InputError, OSError, soundfile.SoundFileError) as error:
            raise InputError(
                f"{self.folder}: cannot be written to any more ({error}); what was finished by now is kept: make room, "
                "then give the same command again to go on"
            ) from error
        return results

    def close(self) -> None:
        self._journal.close()
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def _check_requests(self, requests: Sequence[SynthesisRequest]) -> None:
        digests = {request.id: request.digest for request in requests}
        # A request that failed may be mended and tried again.
        changed = [
            row["id"]
            for row in self._journal.rows()
            if row["id"] not in digests or (row["error"] is None and row["request"] != digests[row["id"]])
        ]
        if changed:
            raise InputError(
                f"{self._journal.path} has results of {len(changed)} requests that are no longer there, or ask for "
                f"something else now: {', '.join(changed[:TOLD])}; choose another output_dir (what may be done to the "
                "requests is to add some at the end)"
            )

    def _keep(self, row: dict[str, Any]) -> bool:
        if row["error"] is not None:
            keep = not self._retry_errors
            if keep:
                self.failed.append(f"{row['id']}: {row['error']}")
        else:
            keep = self._has_sound(row)
        if keep:
            self.done.add(row["id"])
        return keep

    def _has_sound(self, row: dict[str, Any]) -> bool:
        """Whole: a machine that lost its power may have kept a file's name without its contents."""
        path = self.folder / f"{row['id']}.wav"
        return path.is_file() and path.stat().st_size >= round(row["seconds"] * self._sample_rate) * BYTES_PER_SAMPLE

    def _result(self, voiced: Voiced) -> SynthesisResult:
        answered = voiced.answered
        request, answer = answered.prepared.request, answered.answer
        units = answer.agent_units
        return SynthesisResult(
            id=request.id,
            request=request.digest,
            user_text=answer.user_text,
            agent_text=answer.agent_text,
            agent_units=None if units is None else units.tolist(),
            seconds=0.0 if voiced.sound is None else len(voiced.sound) / self._sample_rate,
            timings={stage: round(seconds, 6) for stage, seconds in voiced.timings.items()},
            truncated=answer.truncated,
            error=voiced.error,
        )

"""The folder that a batch synthesis fills: what is in it already, and how more gets there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import soundfile

from usdm.audio import write_audio
from usdm.chain.requests import SynthesisRequest
from usdm.chain.synthesis_results import SynthesisResult, shard_file
from usdm.chain.synthesis_stages import Voiced
from usdm.runs import JsonLines
from usdm.types import InputError

BYTES_PER_SAMPLE = 2  # of the WAV files
TOLD = 10  # ids in a message


class ShardFolder:
    """One shard's part of the folder, for as long as the shard is at work.

    Raises InputError if another run does the same shard, or if the folder has results of other requests and these are
    not to be overwritten.
    """

    def __init__(
        self,
        folder: Path,
        requests: Sequence[SynthesisRequest],
        shard: int,
        num_shards: int,
        sample_rate: int,
        retry_errors: bool,
        overwrite: bool,
    ) -> None:
        self.folder = folder
        self.done: set[str] = set()  # ids that earlier runs have done
        self.failed: list[str] = []  # "id: why", of earlier runs
        self._sample_rate = sample_rate
        self._retry_errors = retry_errors
        self._unfinished = folder / f".unfinished-{shard:05d}-of-{num_shards:05d}"
        self._lines = JsonLines(shard_file(folder, shard, num_shards))
        try:
            changed = self._changed(requests)
            if changed and not overwrite:
                raise InputError(
                    f"{self._lines.path} has results of {len(changed)} requests that are no longer there, or ask for "
                    f"something else now: {', '.join([*changed][:TOLD])}; choose another output_dir, or "
                    "overwrite=true to delete these (requests may be added at the end)"
                )
            self._lines.keep(lambda row: row["id"] not in changed and self._keep(row))
            shutil.rmtree(self._unfinished, ignore_errors=True)
            self._unfinished.mkdir()
        except BaseException:
            self._lines.close()
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
            self._lines.append(*map(asdict, results))
        except (InputError, OSError, soundfile.SoundFileError) as error:
            raise InputError(
                f"{self.folder}: cannot be written to any more ({error}); what was finished by now is kept: make room, "
                "then give the same command again to go on"
            ) from error
        return results

    def close(self) -> None:
        self._lines.close()
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def _changed(self, requests: Sequence[SynthesisRequest]) -> dict[str, None]:
        """Ids, in order, of results that nobody asks for any more."""
        digests = {request.id: request.digest for request in requests}
        # A request that failed may be mended and tried again.
        return {
            row["id"]: None
            for row in self._lines.rows()
            if row["id"] not in digests or (row["error"] is None and row["request"] != digests[row["id"]])
        }

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

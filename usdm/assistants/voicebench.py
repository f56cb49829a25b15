"""VoiceBench (arXiv 2410.17196): `hlt-lab/voicebench` of the hub, as it is downloaded.

A folder for each subset with Parquet files, `SUBSET/SPLIT-00000-of-00001.parquet`, whose rows have `prompt` (the words)
and `audio` (`bytes` of a WAV file), and by subset `reference`, `id`, or `instruction_id_list` and `kwargs`. JSON lines
of the same rows without `audio` (`SUBSET/SPLIT.jsonl`) are read too: what is then asked is typed, or spoken by a voice.

The layout and the column names were checked against the published scorers (MatthewCYM/VoiceBench, commit 5338154) and
the hub's listing of files; the data itself was not at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from usdm.assistants.files import Row, keep_sound, rows_of_jsonl, rows_of_parquet, safe, text_of
from usdm.assistants.instructions import follows
from usdm.assistants.items import Item, Judged, Reading
from usdm.types import InputError

SCORING = {
    "alpacaeval": "open",
    "alpacaeval_full": "open",
    "commoneval": "open",
    "wildvoice": "open",
    "sd-qa": "question",
    "openbookqa": "multiple_choice",
    "mmsu": "multiple_choice",
    "ifeval": "instruction_following",
    "bbh": "yes_or_no",
    "advbench": "refusal",
}
LEFT_OUT = {"mtbench": "several turns, of which the published scripts have no scorer"}
BBH_TASKS = ("sports_understanding", "hyperbaton", "navigate", "web_of_lies")
SHARD = re.compile(r"-\d{5}-of-\d{5}$|^\d{4}$")


class VoiceBench:
    """The subsets that lie in `folder`.

    Args:
        subsets: names of some of them; None: all that are there.
        limit: of each split, the first ones; None: all.
    """

    name = "VoiceBench"

    def __init__(self, folder: str, *, subsets: Sequence[str] | None = None, limit: int | None = None) -> None:
        self.folder, self.limit = Path(folder), limit
        there = [name for name in SCORING if (self.folder / name).is_dir()]
        if missing := sorted(set(subsets or ()) - set(there)):
            raise InputError(f"{folder}: no subset {', '.join(missing)} there, only {', '.join(there) or 'none'}")
        if not there:
            raise InputError(f"{folder}: no folder with the name of a subset ({', '.join(SCORING)}) in it")
        self.subsets = [name for name in there if subsets is None or name in subsets]

    def read(self, sounds: Path) -> Reading:
        items = [item for subset in self.subsets for item in self._items(subset, sounds)]
        left = [f"{name}: {why}" for name, why in LEFT_OUT.items() if (self.folder / name).is_dir()]
        return Reading(tuple(items), tuple(left))

    def derived(self, judged: Sequence[Judged]) -> list[Judged]:
        return []

    def _items(self, subset: str, sounds: Path) -> Iterator[Item]:
        files = sorted(path for path in (self.folder / subset).rglob("*") if path.suffix in (".parquet", ".jsonl"))
        if not files:
            raise InputError(f"{self.folder / subset}: no Parquet file there; download the subset again")
        counts: dict[str, int] = {}
        for path in files:
            split = SHARD.sub("", path.stem) or path.parent.name
            for row in rows_of_parquet(path) if path.suffix == ".parquet" else rows_of_jsonl(path):
                number = counts.get(split, 0)
                if self.limit is not None and number >= self.limit:
                    break
                counts[split] = number + 1
                yield _item(subset, split, number, row, path, sounds)


def _item(subset: str, split: str, number: int, row: Row, path: Path, sounds: Path) -> Item:
    name, where = safe(f"{subset}-{split}-{number:05d}"), f"{path}, row {number}"
    audio = row.get("audio")
    sound = audio.get("bytes") if isinstance(audio, dict) else None
    scoring = SCORING[subset]
    facts: dict[str, Any] = {}
    reference = row.get("reference")
    if scoring == "instruction_following":
        facts = _instructions(row, where)
    elif scoring == "yes_or_no":
        facts, reference = _task(row, where), text_of(row, "reference", where).strip()
    elif scoring == "multiple_choice":
        reference = text_of(row, "reference", where).strip().upper()
    elif scoring == "question":
        reference = text_of(row, "reference", where)
    return Item(
        id=name,
        subset=f"{subset} {split}" if subset == "sd-qa" else subset,
        question=text_of(row, "prompt", where),
        scoring=scoring,
        audio=None if sound is None else keep_sound(sounds, name, sound),
        reference=reference,
        facts=facts,
    )


def _instructions(row: Row, where: str) -> dict[str, Any]:
    """Raises InputError for instructions that cannot be checked."""
    instructions, given = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(instructions, list) or not isinstance(given, list) or len(instructions) != len(given):
        raise InputError(f"{where}: instruction_id_list and kwargs of the same length are needed")
    arguments = [{key: value for key, value in (each or {}).items() if value is not None} for each in given]
    for instruction, own in zip(instructions, arguments, strict=True):
        try:
            follows("Once more, with feeling.", instruction, own)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    return {"instructions": instructions, "arguments": arguments}


def _task(row: Row, where: str) -> dict[str, Any]:
    name = text_of(row, "id", where)
    task = next((task for task in BBH_TASKS if task in name), None)
    if task is None:
        raise InputError(f"{where}: id={name!r} names none of the tasks {', '.join(BBH_TASKS)}")
    return {"task": task}

"""VocalBench (arXiv 2505.15727): its repository, with the audio of `VocalNet/VocalBench` in `audio/` or beside `json/`.

`json/SET.json` is a list of objects with `Qid`, `Audio` (a path below the audio's folder) and `Question`, and by set
`Answer`, `Category`, `Context`, `Question_emo`, `Level`. `prompts/` has what its judge is told. Both are in the
repository (SJTU-OmniAgent/VocalBench, commit 5e9cce0), and were read whole. Knowledge is scored by rule; the figures of
clarity (WER) and latency (RTF) are those of `usdm.assistants.figures`; the rest is for a judge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from usdm.assistants.files import Row, rows_of_json, text_of
from usdm.assistants.items import Item, Judged, Reading, Score
from usdm.types import InputError, Turn

SETS = {
    "knowledge": "knowledge",
    "reasoning": "vocalbench_points",
    "creativity": "vocalbench_points",
    "single_round": "vocalbench_points",
    "multi_round": "vocalbench_points",
    "instruction_following": "vocalbench_followed",
    "emotion": "vocalbench_points",
    "safety": "vocalbench_refusal",
    "robust": "vocalbench_points",
    "robust_clean": "vocalbench_points",
}
PROMPTS = {"robust_clean": "robust"}
PARALINGUISTIC = "Paralinguistic"
WHY = f"instruction_following, {PARALINGUISTIC}: needs the published emotion recogniser, which is not used here"


class VocalBench:
    """The sets whose files lie in `folder/json`.

    Args:
        subsets: names of some of them; None: all that are there.
        limit: of each set, the first ones (of `robust`, of each level); None: all.
    """

    name = "VocalBench"

    def __init__(self, folder: str, *, subsets: Sequence[str] | None = None, limit: int | None = None) -> None:
        self.folder, self.limit = Path(folder), limit
        there = [name for name in SETS if (self.folder / "json" / f"{name}.json").is_file()]
        if missing := sorted(set(subsets or ()) - set(there)):
            raise InputError(f"{folder}/json: no set {', '.join(missing)} there, only {', '.join(there) or 'none'}")
        if not there:
            raise InputError(f"{folder}/json: no file with the name of a set ({', '.join(SETS)}) in it")
        self.subsets = [name for name in there if subsets is None or name in subsets]

    def read(self, sounds: Path) -> Reading:
        items = [item for subset in self.subsets for item in self._items(subset)]
        return Reading(tuple(items), (WHY,) if "instruction_following" in self.subsets else ())

    def derived(self, judged: Sequence[Judged]) -> list[Judged]:
        """Preserve rate: points under noise over points of the same questions without, as a ratio of means."""
        name = "points of 5"
        clean = {
            (each.channel, _number(each.item.id)): each.scores[name]
            for each in judged
            if each.item.subset == "robust_clean" and name in each.scores
        }
        rows = []
        for each in judged:
            base = clean.get((each.channel, _number(each.item.id)))
            if each.item.subset.startswith("robust ") and name in each.scores and base is not None:
                score = Score(each.scores[name].value, base.value, parsed=each.scores[name].parsed)
                rows.append(replace(each, scores={"preserve rate": score}))
        return rows

    def _items(self, subset: str) -> Iterator[Item]:
        path = self.folder / "json" / f"{subset}.json"
        counts: defaultdict[str, int] = defaultdict(int)
        for row in rows_of_json(path):
            name = text_of(row, "Qid", str(path))
            if subset == "instruction_following" and row.get("Category") == PARALINGUISTIC:
                continue
            part = f"robust {row.get('Category')} {row.get('Level')}" if subset == "robust" else subset
            counts[part] += 1
            if self.limit is None or counts[part] <= self.limit:
                yield self._item(subset, part, name, row, f"{path}, {name}")

    def _item(self, subset: str, part: str, name: str, row: Row, where: str) -> Item:
        scoring = SETS[subset]
        relative = text_of(row, "Audio", where)
        places = (self.folder / "audio" / relative, self.folder / relative)
        facts: dict[str, object] = {}
        if scoring.startswith("vocalbench"):
            facts = {"prompt": self._prompt(subset, row, where), "shown": _shown(subset, row, where)}
        return Item(
            id=name,
            subset=part,
            question=text_of(row, "Question", where),
            scoring=scoring,
            audio=next((place for place in places if place.is_file()), None),
            reference=row.get("Answer"),
            facts=facts,
            history=tuple(
                Turn("user" if turn["from"] == "user" else "agent", turn["value"]) for turn in row.get("Context", ())
            ),
        )

    def _prompt(self, subset: str, row: Row, where: str) -> str:
        name = PROMPTS.get(subset, subset)
        if subset == "creativity":
            name = f"creativity/{_file_name(text_of(row, 'Category', where))}"
        elif subset == "instruction_following":
            category = _file_name(text_of(row, "Category", where))
            if category in ("content", "style"):
                category = f"{category}_{_file_name(text_of(row, 'Sub-category', where))}"
            name = f"instruction/{category}"
        path = self.folder / "prompts" / f"{name}.txt"
        if not path.is_file():
            raise InputError(f"{path}: no such file; what the judge is told comes with VocalBench's repository")
        return path.read_text(encoding="utf-8")


def _shown(subset: str, row: Row, where: str) -> Mapping[str, str]:
    """What the judge sees beside question and reply."""
    if subset in ("reasoning", "multi_round"):
        return {"Standard Answer": text_of(row, "Answer", where)}
    return {"Question Emotion": text_of(row, "Question_emo", where)} if subset == "emotion" else {}


def _file_name(category: str) -> str:
    return category.lower().replace(" ", "_")


def _number(name: str) -> str:
    """Of a question, the same in all levels of noise."""
    return name.rpartition("-")[2]

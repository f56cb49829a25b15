"""URO-Bench (arXiv 2502.17810): `Honggao/URO-Bench` of the hub, unpacked.

`basic/SET/test.jsonl` and `pro/SET/test.jsonl` with `source_wav` (a path from the file's folder), `source_text` and
`target_text` (a text or a list of texts). The layout was checked against the published scripts (Ruiqi-Yan/URO-Bench,
commit 9e74bc0), which read these keys; the data itself was not at hand. What the published scorer asks GPT-4o-mini
although a rule can tell it (a letter to choose, a number to work out) is scored by rule here. English sets alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from usdm.assistants.choices import chosen_letter
from usdm.assistants.files import Row, rows_of_jsonl, safe, text_of
from usdm.assistants.items import Item, Judged, Reading
from usdm.assistants.numbers import reference_number
from usdm.types import InputError

EXACT = "exact"  # by rule where the reference is a letter or a number, else by a judge
SETS = {
    "basic/Repeat": "repetition",
    "basic/GaokaoEval": EXACT,
    "basic/Gsm8kEval": EXACT,
    "basic/MLC": EXACT,
    "basic/Summary": "semi_open",
    "basic/StoralEval": "semi_open",
    "basic/TruthfulEval": "semi_open",
    "basic/AlpacaEval": "open",
    "basic/CommonEval": "open",
    "basic/WildchatEval": "open",
    "pro/MLCpro-en": EXACT,
    "pro/ClothoEval-en": EXACT,
    "pro/MuChoEval-en": EXACT,
    "pro/CodeSwitching-en": "semi_open",
}
SEVERAL_TURNS = "several turns"
LISTENS = "its judge listens to the reply"
OTHERS = {
    "pro/MtBenchEval-en": SEVERAL_TURNS,
    "pro/SpeakerAware-en": SEVERAL_TURNS,
    "pro/SRT-en": LISTENS,
    "pro/GenEmotion-en": LISTENS,
    "pro/GenStyle-en": "needs a rubric of its own",
    "pro/UnderEmotion-en": "needs a rubric of its own",
    "pro/Safety-en": "needs a rubric of its own",
    "pro/Multilingual": "other languages",
}


class UroBench:
    """The English sets that lie in `folder`.

    Args:
        subsets: some of them, such as `basic/Repeat`; None: all that are there.
        limit: of each set, the first ones; None: all.
    """

    name = "URO-Bench"

    def __init__(self, folder: str, *, subsets: Sequence[str] | None = None, limit: int | None = None) -> None:
        self.folder, self.limit = Path(folder), limit
        there = [name for name in SETS if (self.folder / name / "test.jsonl").is_file()]
        if missing := sorted(set(subsets or ()) - set(there)):
            raise InputError(f"{folder}: no set {', '.join(missing)} there, only {', '.join(there) or 'none'}")
        if not there:
            raise InputError(f"{folder}: no basic/SET/test.jsonl of a set such as {', '.join(list(SETS)[:3])} in it")
        self.subsets = [name for name in there if subsets is None or name in subsets]

    def read(self, sounds: Path) -> Reading:
        items = [item for subset in self.subsets for item in self._items(subset)]
        return Reading(tuple(items), tuple(self._left_out()))

    def derived(self, judged: Sequence[Judged]) -> list[Judged]:
        return []

    def _left_out(self) -> Iterator[str]:
        for path in sorted(self.folder.glob("*/*/test.jsonl")):
            name = f"{path.parts[-3]}/{path.parts[-2]}"
            if name not in SETS:
                yield f"{name}: {'Chinese' if name.endswith('-zh') else OTHERS.get(name, 'no set that is known')}"

    def _items(self, subset: str) -> Iterator[Item]:
        path = self.folder / subset / "test.jsonl"
        for number, row in enumerate(rows_of_jsonl(path)[: self.limit]):
            yield _item(subset, number, row, path)


def _item(subset: str, number: int, row: Row, path: Path) -> Item:
    where = f"{path}, line {number + 1}"
    question = text_of(row, "source_text", where)
    target = row.get("target_text", question)
    reference = " / ".join(map(str, target)) if isinstance(target, list) else str(target)
    scoring = SETS[subset]
    if scoring == EXACT:
        scoring, reference = _exact(reference)
    audio = path.parent / text_of(row, "source_wav", where)
    return Item(
        id=safe(f"{subset.replace('/', '-')}-{number:04d}"),
        subset=subset,
        question=question,
        scoring=scoring,
        audio=audio if audio.is_file() else None,
        reference=reference,
    )


def _exact(reference: str) -> tuple[str, str]:
    if reference_number(reference) is not None:
        return "arithmetic", reference
    letter = chosen_letter(reference) if reference[:1] in "ABCD(" and not reference[1:2].isalpha() else None
    return ("question", reference) if letter is None else ("multiple_choice", letter)

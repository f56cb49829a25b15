"""Scored folders side by side: figures, and paired differences to the first on the items that both have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usdm.evaluation.scorecard import Scored, read_scored
from usdm.metrics.figures import Figure, FigureGap, gap_of
from usdm.metrics.table import figure_cell, figure_gap_cell, markdown_table
from usdm.types import InputError


@dataclass(frozen=True)
class ComparedRow:
    """One folder."""

    name: str
    figures: Mapping[str, Figure]
    gaps: Mapping[str, FigureGap | None]  # to the first folder; none of itself
    same_items: int  # that the first folder has too


@dataclass(frozen=True)
class Comparison:
    rows: tuple[ComparedRow, ...]
    facts: Mapping[str, Any]

    @property
    def worse(self) -> dict[str, FigureGap]:
        """Figures of the second folder that are worse than the first's beyond noise."""
        return {name: gap for name, gap in self.rows[1].gaps.items() if gap is not None and gap.is_worse}

    def to_json(self) -> str:
        rows = [asdict(row) for row in self.rows]
        return json.dumps({"rows": rows, "facts": self.facts}, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows for name in row.figures))
        first, *others = self.rows
        header = ["figure", *(row.name for row in self.rows), *(f"{row.name} - {first.name}" for row in others)]
        lines = [
            [
                name,
                *(figure_cell(row.figures.get(name)) for row in self.rows),
                *(_gap(row.gaps.get(name)) for row in others),
            ]
            for name in names
        ]
        shared = ", ".join(f"{row.name} {row.same_items}" for row in others)
        note = (
            f"Intervals are 95 % (bootstrap over dialogs). Differences are paired, over items that both have judged "
            f"(shared with {first.name}: {shared or 'none'}); * worse, beyond noise. Judge: {self.facts['judge']}. "
            f"Seed {self.facts['seed']}."
        )
        return f"{markdown_table(header, lines)}\n\n{note}\n"


def compare_results(folders: Mapping[str, str | Path], *, seed: int = 0) -> Comparison:
    """Hold scored folders, by name, against the first of them.

    Raises:
        InputError: fewer than one folder, one without scores, folders of different judges, a figure that was computed
            in different ways, or two folders without a common item.
    """
    if not folders:
        raise InputError("no folders: give those that `usdm score` or `usdm evaluate` has written")
    scored = {name: read_scored(folder) for name, folder in folders.items()}
    first_name, first = next(iter(scored.items()))
    rows = [_row(name, each, first, first_name, seed) for name, each in scored.items()]
    facts = {"folders": {name: str(folder) for name, folder in folders.items()}, "judge": first.facts["judge"]}
    return Comparison(tuple(rows), {**facts, "seed": seed})


def _row(name: str, own: Scored, first: Scored, first_name: str, seed: int) -> ComparedRow:
    figures = {figure: Figure(**facts) for figure, facts in own.figures.items()}
    if own is first:
        return ComparedRow(name, figures, {}, len(own.items))
    if own.judge != first.judge:
        raise InputError(
            f"{own.folder} was judged by {own.facts['judge']}, {first.folder} by {first.facts['judge']}: score both "
            "with the same asr"
        )
    same = {key for key, digest in own.digests.items() if first.digests.get(key) == digest}
    ours, theirs = ([item for item in side.items if item.id in same] for side in (own, first))
    if not ours or not theirs:
        raise InputError(f"{name} and {first_name} have no item in common: give results on the same set")
    gaps = {}
    for figure, facts in own.figures.items():
        other = first.figures.get(figure)
        if other is not None and other["about"] != facts["about"]:
            raise InputError(
                f"{figure}: {facts['about']} in {own.folder}, {other['about']} in {first.folder}; score both alike"
            )
        gaps[figure] = gap_of(figure, ours, theirs, facts["lower_is_better"], seed)
    return ComparedRow(name, figures, gaps, len({item.id for item in ours} & {item.id for item in theirs}))


def _gap(gap: FigureGap | None) -> str:
    return figure_gap_cell(gap) + (" *" if gap is not None and gap.is_worse else "")


def named_folders(folders: Sequence[str | Path]) -> dict[str, Path]:
    """Folders by the shortest ends of their paths that differ."""
    paths = [Path(folder).resolve() for folder in folders]
    for length in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, paths, strict=True))
    raise InputError(f"{', '.join(map(str, folders))}: a folder is given twice")

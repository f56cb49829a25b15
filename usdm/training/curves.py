"""Pictures of a run's `log.jsonl`: curves over its steps, or over one of its figures."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from usdm.training.run_folder import VALIDATION

_NOT_DRAWN = {"step", "seconds", "epoch"}


def draw_curves(log: Path, picture: Path) -> None:
    """One panel for each logged quantity over steps; a validation figure shares the panel of its training loss."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if name not in _NOT_DRAWN and isinstance(value, int | float):
                curves[name].append((row["step"], value))
    panels: dict[str, list[str]] = defaultdict(list)
    for name in curves:
        panels[name.removeprefix(VALIDATION)].append(name)
    columns = min(3, len(panels)) or 1
    rows = -(-len(panels) // columns) or 1
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, names) in zip(axes.flat, panels.items(), strict=False):
        for name in names:
            steps, values = zip(*curves[name], strict=True)
            axis.plot(steps, values, marker="o" if name.startswith(VALIDATION) else None, markersize=3, label=name)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        if len(names) > 1:
            axis.legend(fontsize=7)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def draw_against(log: Path, picture: Path, across: str, names: Sequence[str]) -> None:
    """One panel for each of the validation figures `names`, over the validation figure `across`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in map(json.loads, log.read_text().splitlines()) if VALIDATION + across in row]
    figure, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names, strict=True):
        axis.plot(
            [row[VALIDATION + across] for row in rows], [row[VALIDATION + name] for row in rows], "o-", markersize=3
        )
        axis.set_title(name, fontsize=9)
        axis.set_xlabel(across, fontsize=8)
        axis.tick_params(labelsize=8)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)

"""A report on result folders: one HTML page, and its tables as Markdown and LaTeX.

Every verb that measures writes its tables as Markdown beside its figures. A report shows them all: scored folders of
one judge also side by side and as a plot, with a few items to listen to, and the command that made each folder.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Plot

from usdm.evaluation.compare import Comparison, compare_results, named_folders
from usdm.evaluation.predictions import REFERENCES_FILE, read_predictions, read_references
from usdm.metrics.figures import Prediction, Reference
from usdm.metrics.table import NONE, markdown_table
from usdm.runs import read_run, write_text
from usdm.types import InputError

TEMPLATE = "report.html.jinja"
LATEX_SPECIAL = str.maketrans({each: f"\\{each}" for each in "&%$#_{}"} | {"–": "--", "~": "\\~{}"})
SIDE_BY_SIDE = "side by side"
PERPLEXITY_FILE = "perplexity.json"  # of usdm evaluate_pretraining


@dataclass(frozen=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """One file of one folder."""

    title: str
    tables: Sequence[Table]
    notes: Sequence[str]
    command: str | None  # that made the folder


@dataclass(frozen=True)
class Example:
    """One item to listen to."""

    folder: str
    prediction: Prediction
    reference: Reference
    question: str  # sounds as data addresses
    reply: str | None


def write_report(folders: Sequence[str | Path], output_dir: str | Path, *, examples: int = 3, seed: int = 0) -> Path:
    """Write `report.html`, `report.md` and `report.tex`; the page needs no other file.

    Args:
        folders: of `usdm evaluate`, `score`, `compare_...`, `attribute_errors`, `evaluate_pretraining` and others that
            write tables.
        examples: items to listen to, of each scored folder.

    Raises:
        InputError: a folder has no table.
    """
    named = named_folders(folders)
    sections = [section for name, folder in named.items() for section in _sections(name, folder)]
    # Of dialogs: what is known, and assistants, have scorecards of their own kinds.
    scored = {name: folder for name, folder in named.items() if (folder / REFERENCES_FILE).is_file()}
    plot = None
    if len(scored) > 1:
        try:
            comparison = compare_results(scored, seed=seed)
        except InputError as error:  # other judges, other sets: then they stand one after the other, and it is said why
            sections.insert(0, Section(SIDE_BY_SIDE, [], [f"The scored folders cannot be compared: {error}"], None))
        else:
            tables, notes = _parse(comparison.to_markdown())
            sections.insert(0, Section(SIDE_BY_SIDE, tables, notes, None))
            plot = _plot(comparison)
    pretrained = {name: folder for name, folder in named.items() if (folder / PERPLEXITY_FILE).is_file()}
    if len(pretrained) > 1:
        sections.insert(0, Section("perplexity by type of token", [_perplexities(pretrained)], [], None))
    heard = [example for name, folder in scored.items() for example in _examples(name, folder, examples)]
    target = Path(output_dir)
    target.mkdir(parents=True, exist_ok=True)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template(TEMPLATE).render(sections=sections, plot=plot, examples=heard)
    write_text(target / "report.html", page)
    write_text(target / "report.md", "\n\n".join(map(_markdown, sections)) + "\n")
    write_text(target / "report.tex", "\n\n".join(_latex(section) for section in sections if section.tables) + "\n")
    return target / "report.html"


def _sections(name: str, folder: Path) -> Iterator[Section]:
    found = False
    command = _command(folder)
    for path in sorted(folder.glob("*.md")):
        tables, notes = _parse(path.read_text(encoding="utf-8"))
        if tables:
            found = True
            yield Section(f"{name}: {path.stem}", tables, notes, command)
    if not found:
        raise InputError(f"{folder}: no table (*.md) lies there; give folders that a measuring verb has written")


def _command(folder: Path) -> str | None:
    """That made the folder, by its own record or by that of a run inside it."""
    records = [read_run(each) for each in (folder, *sorted(path.parent for path in folder.glob("*/run.json")))]
    return next((each.command for each in records if each is not None), None)


def _perplexities(folders: Mapping[str, Path]) -> Table:
    """A row a model."""
    models = {name: json.loads((folder / PERPLEXITY_FILE).read_text())["types"] for name, folder in folders.items()}
    kinds = list(dict.fromkeys(kind for types in models.values() for kind in types))
    rows = [
        [
            name,
            *(
                "{perplexity:.2f} ({low:.2f} to {high:.2f})".format(**types[kind]) if kind in types else NONE
                for kind in kinds
            ),
        ]
        for name, types in models.items()
    ]
    return Table(["pretrained", *kinds], rows)


def _parse(text: str) -> tuple[list[Table], list[str]]:
    """The tables of a Markdown text, and its other paragraphs."""
    tables, notes = [], []
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        if len(lines) > 1 and all(line.startswith("|") for line in lines):
            header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
            tables.append(Table(header, rows))
        else:
            notes.append(block)
    return tables, notes


def _markdown(section: Section) -> str:
    command = [] if section.command is None else [f"`{section.command}`"]
    tables = [markdown_table(table.header, table.rows) for table in section.tables]
    return "\n\n".join([f"## {section.title}", *tables, *section.notes, *command])


def _latex(section: Section) -> str:
    """Tables for the package booktabs."""
    lines = [f"% {section.title}"]
    for table in section.tables:
        body = [" & ".join(cell.translate(LATEX_SPECIAL) for cell in row) + r" \\" for row in table.rows]
        head = " & ".join(name.translate(LATEX_SPECIAL) for name in table.header) + r" \\"
        lines += [rf"\begin{{tabular}}{{{'l' * len(table.header)}}}", r"\toprule", head, r"\midrule", *body]
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines)


def _plot(comparison: Comparison) -> str:
    """Every figure of every folder with its interval, as a data address."""
    names = list(dict.fromkeys(name for row in comparison.rows for name in row.figures))
    plot = Plot(figsize=(4 * min(3, len(names)), 1 + len(comparison.rows) * 0.4 * -(-len(names) // 3)))
    FigureCanvasAgg(plot)
    for place, name in enumerate(names, start=1):
        axis = plot.add_subplot(-(-len(names) // 3), min(3, len(names)), place)
        for height, row in enumerate(reversed(comparison.rows)):
            figure = row.figures.get(name)
            if figure is not None and figure.value is not None and figure.low is not None and figure.high is not None:
                below, above = max(0.0, figure.value - figure.low), max(0.0, figure.high - figure.value)
                axis.errorbar(figure.value, height, xerr=[[below], [above]], fmt="o", capsize=3)
        axis.set_yticks(range(len(comparison.rows)), [row.name for row in reversed(comparison.rows)])
        axis.set_ylim(-0.6, len(comparison.rows) - 0.4)
        axis.set_title(name, fontsize=9)
    plot.tight_layout()
    picture = io.BytesIO()
    plot.savefig(picture, format="svg")
    return _data_address("image/svg+xml", picture.getvalue())


def _examples(name: str, folder: Path, number: int) -> Iterator[Example]:
    """The first items of a scored folder, by id: the same ones of every folder on the same set."""
    references = read_references(folder)
    good = {key: each for key, each in sorted(read_predictions(folder).items()) if each.error is None}
    for key, prediction in list(good.items())[:number]:
        question = references[key].user_audio
        if question is not None and question.is_file():
            reply = None if prediction.audio is None else _sound(prediction.audio)
            yield Example(name, prediction, references[key], _sound(question), reply)


def _sound(path: Path) -> str:
    kind = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg"}.get(path.suffix, "audio/ogg")
    return _data_address(kind, path.read_bytes())


def _data_address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

"""What a verb found, shown and written as JSON and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from usdm.runs import write_text


class Report(Protocol):
    """A result that knows how it is written."""

    def to_json(self) -> str: ...

    def to_markdown(self) -> str: ...


def write_report(report: Report, folder: str | Path, name: str) -> None:
    """Show it, and leave it as `folder/name.json` and `folder/name.md`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.json", report.to_json())
    text = report.to_markdown()
    write_text(folder / f"{name}.md", text)
    print(text)
    print(f"written to {folder}")

"""Answers that cost time, such as a recogniser's or a judge's: asked once, kept on disk under what was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from usdm.runs.identity import digest
from usdm.runs.lines import JsonLines


class KeptAnswers:
    """A file of answers, open to one process at a time and to all of its threads.

    Raises InputError if another process has it open, or if a line of it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path)
        self._lines.keep()
        self._known: dict[str, Any] = {row["asked"]: row["answer"] for row in self._lines.rows()}
        self._lock = threading.Lock()

    def __enter__(self) -> KeptAnswers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()

    def get(self, asked: Any, answer: Callable[[], Any]) -> Any:
        """`asked`: all that the answer depends on; both as JSON can hold them. What `answer` raises is raised."""
        key = digest(asked)
        if key not in self._known:
            self.keep(asked, answer())
        return self._known[key]

    def keep(self, asked: Any, answer: Any) -> None:
        """The answer, where it was found together with others."""
        key = digest(asked)
        with self._lock:
            self._known[key] = answer
            self._lines.append({"asked": key, "answer": answer})

    def has(self, asked: Any) -> bool:
        return digest(asked) in self._known

"""Progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from usdm.evaluation.result_lines import Progress


@contextmanager
def bar(name: str) -> Iterator[Progress]:
    with tqdm(desc=name, unit="item") as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield progress

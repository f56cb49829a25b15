"""What a model has said, as dialogs: questions of a batch synthesis and the replies to them, to be learnt from.

Where the replies were the best of several (`usdm synthesize candidates=4 choose=reward`), this is how a reward model
guides a model's play with itself (ALMoST, arXiv 2305.13735).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.corpora.item import Item
from usdm.chain.requests import read_requests
from usdm.chain.synthesis_results import RESULTS_FILE
from usdm.runs import read_lines
from usdm.types import InputError


def replies(requests: str, results: str, speaker: str) -> Iterator[Item]:
    """Each request that was heard as the user's turn, and its reply as the agent's, which `speaker` speaks.

    Requests that failed, or whose reply was cut off, are faults.

    Raises:
        InputError: the requests cannot be read, or `results` is no folder of `usdm synthesize` that is done.
    """
    folder = Path(results)
    if not (folder / RESULTS_FILE).is_file():
        raise InputError(f"{folder}: no {RESULTS_FILE} there; give the folder of a `usdm synthesize` that is done")
    said = {row["id"]: row for row in read_lines(folder / RESULTS_FILE)}
    for request in read_requests(requests):
        row = said.get(request.id)
        fault = _fault(row, request.audio)
        if fault is not None or row is None or request.audio is None:
            yield Item(request.id, request.audio, fault=fault)
            continue
        heard, dialog = request.folder.resolve() / request.audio, request.id
        text = request.transcript or row["user_text"]
        yield Item(f"{request.id}-user", heard, text, dialog=dialog, group=dialog)
        own = (folder / f"{request.id}.wav").resolve()
        yield Item(f"{request.id}-agent", own, row["agent_text"], speaker, "agent", dialog=dialog, turn=1, group=dialog)


def _fault(row: dict | None, audio: Path | None) -> str | None:
    if row is None:
        return "it has no reply: synthesize it with the same requests"
    if audio is None:
        return "it was not heard: a dialog to learn from needs the user's recording"
    if row["error"] is not None:
        return f"it has no reply ({row['error']})"
    return f"its reply was cut off ({', '.join(row['truncated'])})" if row["truncated"] else None

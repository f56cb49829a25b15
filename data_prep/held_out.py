"""A small held-out set to ship: test dialogs of a speech corpus, their sound as Opus."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from data_prep.files import write_atomically
from usdm.types import InputError

README = """# Held-out dialogs

{exchanges} exchanges of {dialogs} dialogs that no part of the embedded model was trained on: the user's turn in a
synthesised voice with varied speed, room and noise, and the agent's turn as the synthesiser says it. `manifest.jsonl`
has one line a turn. Written by `usdm make_held_out`.

Text: Schema-Guided Dialogue (google-research-datasets), CC BY-SA 4.0, numbers spelled out and lower-cased, and small
talk written for this project. Voices: flite (CMU, free licence) and eSpeak NG. This folder is CC BY-SA 4.0.
"""


def make_held_out(corpus: str, output_dir: str, *, exchanges: int, seed: int) -> int:
    """Copy whole dialogs of split "test" until `exchanges` are reached.

    Returns:
        The number of exchanges written.

    Raises:
        InputError: the corpus has no manifest or too few test dialogs.
    """
    source, target = Path(corpus), Path(output_dir)
    if not (source / "manifest.jsonl").is_file():
        raise InputError(f"{source} has no manifest.jsonl: run `usdm synthesize_corpus` first, or give corpus=.")
    dialogs: dict[str, list[dict]] = {}
    for line in (source / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["split"] == "test":
            dialogs.setdefault(row["dialog"], []).append(row)
    names = sorted(dialogs)
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    chosen: list[dict] = []
    kept = 0
    while order and len(chosen) < 2 * exchanges:
        chosen += dialogs[order.pop()]
        kept += 1
    if len(chosen) < 2 * exchanges:
        raise InputError(f"{source} has {len(chosen) // 2} test exchanges, {exchanges} are wanted: ask for fewer.")
    (target / "audio").mkdir(parents=True, exist_ok=True)
    lines = []
    for row in chosen:
        samples, sample_rate = soundfile.read(source / row["audio"], dtype="float32")
        audio = f"audio/{row['id']}.opus"
        soundfile.write(target / audio, samples, sample_rate, format="OGG", subtype="OPUS")
        kept_keys = ("id", "speaker", "role", "dialog", "turn", "split", "text", "duration", "sample_rate")
        lines.append(json.dumps({"audio": audio} | {key: row[key] for key in kept_keys}) + "\n")
    write_atomically(target / "manifest.jsonl", "".join(lines))
    (target / "README.md").write_text(README.format(exchanges=len(chosen) // 2, dialogs=kept))
    return len(chosen) // 2

"""A small held-out set to ship: test dialogs of a speech corpus, their sound as Opus."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from usdm.audio import read_audio
from usdm.data.speech_corpus import MANIFEST_FILE, manifest_lines, manifest_row
from usdm.runs import claim, publishing, write_text
from usdm.types import InputError

KEPT = ("id", "speaker", "role", "dialog", "turn", "split", "text", "duration", "sample_rate")  # of each row
README = """# Held-out dialogs

{exchanges} exchanges of {dialogs} dialogs that no part of the embedded model was trained on: the user's turn in a
synthesised voice with varied speed, room and noise, and the agent's turn as the synthesiser says it. `manifest.jsonl`
has one line a turn. Written by `usdm make_held_out`.

Text: Schema-Guided Dialogue (google-research-datasets), CC BY-SA 4.0, numbers spelled out and lower-cased, and small
talk written for this project. Voices: flite (CMU, free licence) and eSpeak NG. This folder is CC BY-SA 4.0.
"""


def make_held_out(corpus: str, output_dir: str, *, exchanges: int, seed: int, overwrite: bool = False) -> int:
    """Copy whole dialogs of split "test" until `exchanges` are reached.

    Args:
        overwrite: delete a set of another corpus, size or seed.

    Returns:
        The number of exchanges written.

    Raises:
        InputError: the corpus has no manifest or too few test dialogs, or `output_dir` holds another set.
    """
    source, target = Path(corpus), Path(output_dir)
    dialogs = _test_dialogs(source)
    names = sorted(dialogs)
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    chosen: list[dict] = []
    kept = 0
    while order and len(chosen) < 2 * exchanges:
        chosen += dialogs[order.pop()]
        kept += 1
    if len(chosen) < 2 * exchanges:
        raise InputError(
            f"{source / MANIFEST_FILE} has {len(chosen) // 2} test exchanges, {exchanges} are wanted: ask for fewer."
        )
    written = len(chosen) // 2
    with claim(
        target,
        {"exchanges": exchanges, "seed": seed},
        {"corpus": source},
        results=("audio", MANIFEST_FILE, "README.md"),
        overwrite=overwrite,
    ) as claimed:
        with publishing(target / "audio", folder=True) as audio:
            for row in chosen:
                spoken = read_audio(source / row["audio"])
                sound = audio / f"{row['id']}.opus"
                soundfile.write(sound, spoken.samples.numpy(), spoken.sample_rate, format="OGG", subtype="OPUS")
        rows = ({"audio": f"audio/{row['id']}.opus"} | {key: row[key] for key in KEPT} for row in chosen)
        write_text(target / MANIFEST_FILE, "".join(json.dumps(row) + "\n" for row in rows))
        write_text(target / "README.md", README.format(exchanges=written, dialogs=kept))
        claimed.finish({"exchanges": written})
    return written


def _test_dialogs(corpus: Path) -> dict[str, list[dict]]:
    """The turns of each dialog of split "test", without their words."""
    manifest = corpus / MANIFEST_FILE
    if not manifest.is_file():
        raise InputError(f"{corpus} has no manifest.jsonl: run `usdm synthesize_corpus` first, or give corpus=.")
    dialogs: dict[str, list[dict]] = {}
    with manifest.open("rb") as lines:
        for number, _, line in manifest_lines(lines):
            try:
                row = manifest_row(line)
                if row["split"] == "test":
                    dialogs.setdefault(row["dialog"], []).append({key: row[key] for key in ("audio", *KEPT)})
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{manifest}, line {number}: not an utterance ({error!r}); mend it, or take it out: {line[:60]!r}"
                ) from error
    return dialogs

"""A corpus to train vocoders on in no time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile


def write_hums(folder: Path) -> Path:
    """Hums of several pitches, one of them short."""
    folder.mkdir()
    rows = []
    for index, seconds in enumerate((0.2, 0.7, 0.8, 0.9)):
        phase = 2 * np.pi * (120 + 30 * index) * np.arange(int(seconds * 16_000)) / 16_000
        soundfile.write(folder / f"{index}.wav", 0.2 * sum(np.sin(k * phase) / k for k in range(1, 9)), 16_000)
        rows.append(
            {
                "id": str(index),
                "audio": f"{index}.wav",
                "speaker": "hum",
                "role": "agent" if index else "user",
                "dialog": "0",
                "turn": index,
                "split": "dev" if index == 3 else "train",
                "text": "hum",
                "duration": seconds,
            }
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder

"""Preparation as jobs of a cluster: submitit's own way of running them, on this machine instead of SLURM's nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_models import build_random_bundle

from usdm.data.unit_corpus import UnitCorpus
from usdm.units import UnitExtractor


def write_corpus(folder: Path, utterances: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = []
    for number in range(utterances):
        samples = random.normal(0, 0.1, 8000 + 800 * number)
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
        row = {"id": f"u{number}", "audio": f"{number}.wav", "speaker": "s", "role": "user", "split": "train"}
        row |= {"dialog": f"d{number}", "turn": 0, "duration": len(samples) / 16_000, "sample_rate": 16_000}
        rows.append(json.dumps(row))
    (folder / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.slow
def test_units_are_extracted_by_submitted_jobs(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "speech", 7)
    extractor = build_random_bundle(tmp_path / "bundle") / "units"
    units = UnitExtractor.from_pretrained(extractor)
    command = [sys.executable, "-m", "usdm.cli.main", "extract_units", "-m", f"corpora=[{corpus}]"]
    command += [f"extractor={extractor}", f"output_dir={tmp_path / 'units'}", "shard_utterances=2", "processes=1"]
    command += ["job=0,1", "num_jobs=2", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    command += [f"shared.num_units={units.num_units}", f"shared.unit_rate={units.unit_rate}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "units").glob("*.parquet"))) == 4
    found = {row.id: row.units.tolist() for row in UnitCorpus(tmp_path / "units").utterances()}
    assert sorted(found) == [f"u{number}" for number in range(7)]

"""The wheel has all that the source tree runs on, and its command works from any working directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*command: str, cwd: Path, **environment: str) -> str:
    outcome = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=REPOSITORY)
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_holds_code_configuration_weights_and_recordings(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(REPOSITORY))
        for tree in ("usdm", "data_prep", "demo")
        for path in (REPOSITORY / tree).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted |= {f"usdm/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "conf").rglob("*.yaml")}
    assert wanted <= packed
    assert not any(name.startswith(("tests/", "conf/")) for name in packed)
    assert any(name.endswith("licenses/LICENSE") for name in packed)


def test_an_installed_wheel_finds_its_configuration_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    run(*pip, str(wheel), cwd=tmp_path)
    where = "import usdm.config; print(usdm.config.config_folder())"
    assert run(sys.executable, "-c", where, cwd=elsewhere, PYTHONPATH=str(target)).strip() == str(target / "usdm/conf")
    command = [sys.executable, "-m", "usdm.cli.main", "train_vocoder", "--cfg", "job", "--resolve"]
    assert "num_mels: 80" in run(*command, cwd=elsewhere, PYTHONPATH=str(target))
    assert not any(elsewhere.iterdir())
    own = tmp_path / "own" / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [tiny]\ntrain_vocoder: {task: {crop_frames: 7}}\n")
    command += ["--config-dir", str(tmp_path / "own"), "experiment=mine"]
    assert "crop_frames: 7" in run(*command, cwd=elsewhere, PYTHONPATH=str(target))

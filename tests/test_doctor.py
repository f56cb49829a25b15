"""`usdm doctor`: what this machine can run, told without loading or asking anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from usdm.cli import doctor
from usdm.cli.main import main


def test_it_tells_what_this_machine_can_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(HfApi, "model_info", lambda *given, **named: pytest.fail("it asks the hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("usdm.chain.hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor, "installed", lambda name: None if name in doctor.EXTRAS else "1.2.3")  # a bare machine
    assert main(["doctor", f"json={tmp_path / 'found.json'}"]) == 0
    told = capsys.readouterr().out
    found = {(each["room"], each["name"]): each for each in json.loads((tmp_path / "found.json").read_text())}
    assert found["packages", "bitsandbytes"] == {
        "room": "packages",
        "name": "bitsandbytes",
        "good": False,
        "told": "pip install 'usdm[quantized]'",
    }
    assert found["packages", "torch"]["told"] == "1.2.3" and found["kernels", "sdpa"]["good"]
    models = {name: each for (room, name), each in found.items() if room == "models"}
    assert models.keys() == {"tiny", "people", "ustm", "usdm_dailytalk"}  # and none that is made of random numbers
    assert models["tiny"]["good"] and "naver-ai/USTM" in models["ustm"]["told"]
    assert all(each["told"] in told for each in found.values())
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="what it says without a GPU")
def test_it_says_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert doctor.why_no_gpu() == "this build of PyTorch is for CPUs alone"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert doctor.why_no_gpu()
    (gpu,) = [each for each in doctor.machine() if each.name == "GPU"]
    assert gpu.good is False

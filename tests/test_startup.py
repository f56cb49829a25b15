"""What the command imports before it can refuse or answer: packages that take seconds are for what needs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import build_random_bundle

from usdm.chain import DecoderSampling, GenerationSettings
from usdm.types import Sampling

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM = "import sys; from usdm.cli.main import main; print(main(sys.argv[1:]), *sys.modules)"
QUESTION = REPOSITORY / "usdm" / "assets" / "question.wav"

# Of these transformers, torch's compiler and scipy's optimisers come in with the models of transformers.
NOT_FOR_A_REPLY = {
    "accelerate",
    "gradio",
    "librosa",
    "matplotlib",
    "pandas",
    "peft",
    "pyarrow",
    "scipy.optimize",
    "scipy.signal",
    "sklearn",
    "sympy",
    "torch._dynamo",
    "torch.distributed.tensor",
    "torch.onnx",
    "transformers",
    "usdm.evaluation",
    "usdm.training",
}


def run(folder: Path, *arguments: str) -> tuple[int, set[str]]:
    """Exit status and modules imported, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    program = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(program, capture_output=True, text=True, cwd=folder, env=environment, check=True)
    status, *modules = done.stdout.splitlines()[-1].split()
    return int(status), set(modules)


@pytest.mark.parametrize("wrong", ["inptu=x", "+model.nmae=x", "+model.name=[tiny]", "seed=many"])
def test_a_wrong_setting_is_refused_before_torch_is_imported(wrong: str, tmp_path: Path) -> None:
    status, modules = run(tmp_path, "respond", wrong, "text=hello")
    assert status == 2 and "hydra" in modules
    assert not modules & {"torch", "transformers", "usdm.chain"}


CALLER = """
import sys, torch, usdm
from usdm.chain import LoadOptions
for dtype in (None, torch.bfloat16):  # the second is read by transformers
    pipeline = usdm.SpokenDialogPipeline.from_pretrained(sys.argv[1], LoadOptions(dtype=dtype))
    for _ in range(2):
        pipeline.respond(0.1 * torch.randn(16_000), 16_000)
        *_, reply = pipeline.stream(text="hello")
"""


def test_a_caller_s_output_is_the_caller_s(tmp_path: Path) -> None:
    """No progress bar, no report and no deprecation of any library is printed beside it."""
    bundle = build_random_bundle(tmp_path / "bundle")
    limits = {stage: Sampling(max_new_tokens=8) for stage in ("transcribe", "respond", "speak")}
    GenerationSettings(limits, DecoderSampling(steps=1)).save(bundle)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    program = [sys.executable, "-c", CALLER, str(bundle)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("question", ["text=hello there", f"input={QUESTION}"])
def test_a_reply_imports_no_more_than_it_needs(question: str, tmp_path: Path) -> None:
    status, modules = run(tmp_path, "respond", question, "trace=reply.json")
    assert status == 0 and "torch" in modules and "usdm.chain" in modules
    assert modules & NOT_FOR_A_REPLY == set()

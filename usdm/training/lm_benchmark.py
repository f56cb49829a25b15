"""How fast a language model trains here: tokens a second, and their share of what the device could compute.

It is a short real run of `pretrain` on a synthetic unit corpus.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

from usdm.tokens import SpeechTextVocabulary
from usdm.training.data_benchmark import write_synthetic_corpus
from usdm.training.language_model import pretrain
from usdm.training.lm_settings import LanguageModelSettings
from usdm.training.plan import GPUS, flops_per_token
from usdm.training.run_folder import LOG_FILE
from usdm.types import InputError

CORPUS_UNITS = 2_000_000


@dataclass(frozen=True)
class TrainingSpeed:
    parameters: int
    max_length: int
    rows_per_step: int  # of one process
    tokens_per_second: float  # of one process; median over logged steps but the first
    model_flops: float  # a second
    peak_flops: float  # of the device: from its data sheet, or measured by a product of matrices
    device: str
    peak_bytes: int | None  # of GPU memory

    @property
    def utilisation(self) -> float:
        """Model FLOPs utilisation, 0..1."""
        return self.model_flops / self.peak_flops


def benchmark_training(
    model: PreTrainedModel,
    vocabulary: SpeechTextVocabulary,
    output_dir: str | Path,
    settings: LanguageModelSettings,
    *,
    adapter: Any = None,
) -> TrainingSpeed:
    """Train for `settings.steps` steps and leave `training_benchmark.json` in `output_dir`.

    Raises:
        InputError: fewer than three steps, of which the first ones warm up.
    """
    if settings.steps < 3:
        raise InputError(f"steps={settings.steps}: give 3 or more, the first is for warming up")
    folder = Path(output_dir)
    corpus, run = folder / "corpus" / "synthetic.parquet", folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    corpus.parent.mkdir(parents=True, exist_ok=True)
    if not corpus.exists():
        write_synthetic_corpus(corpus, CORPUS_UNITS, vocabulary.num_units)
    plain = replace(
        settings, log_every=1, validate_every=None, validation_rows=1, save_every=settings.steps, report_to=()
    )
    parameters, per_token = model.num_parameters(), flops_per_token(model, settings.max_length, adapter is not None)
    pretrain(model, vocabulary, [corpus], run, plain, adapter=adapter)
    logged = [json.loads(line) for line in (run / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    speeds = [row["tokens_per_second"] for row in logged if "tokens_per_second" in row][1:]
    device, peak = device_peak(settings.bf16)
    speed = TrainingSpeed(
        parameters=parameters,
        max_length=settings.max_length,
        rows_per_step=settings.batch_size * settings.gradient_accumulation_steps,
        tokens_per_second=median(speeds),
        model_flops=median(speeds) * per_token,
        peak_flops=peak,
        device=device,
        peak_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    )
    record = asdict(speed) | {"utilisation": speed.utilisation, "settings": asdict(plain)}
    (folder / "training_benchmark.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(run)
    return speed


def device_peak(bf16: bool) -> tuple[str, float]:
    """The device's name and its FLOPs a second in the precision that is trained in."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        for known, gpu in GPUS.items():
            if known in name:
                return name, gpu.flops
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if bf16 else torch.float32
    return device.type, _measured_peak(device, dtype)


def _measured_peak(device: torch.device, dtype: torch.dtype, size: int = 1024, repeats: int = 8) -> float:
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    fastest = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        (left @ right).sum().item()  # waits for the device
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest

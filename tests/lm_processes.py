"""What `test_lm_distributed` lets two processes do, in one launch: to start them takes longer than all of it.

    python lm_processes.py FOLDER RANK PORT

Each run is `pretrain` on the corpus in FOLDER with four rows a step, however many processes share them. `whole` runs
keep a copy of the weights in each process, `sharded` ones a part. `A_then_B` begins with A processes and goes on from
their checkpoint at step 3 with B.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from test_lm_training import SETTINGS, tiny_model
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from usdm.tokens import SpeechTextVocabulary
from usdm.training import language_model
from usdm.training.lm_settings import LanguageModelSettings
from usdm.training.lm_trainer import SpeechTextTrainer

# Three rows to validate on: no multiple of two processes.
WHOLE = dataclasses.replace(SETTINGS, batch_size=4, validate_every=3, validation_rows=3, save_every=3)
SHARDED = dataclasses.replace(WHOLE, batch_size=2, gradient_accumulation_steps=2, sharding="fsdp2")


def halved(settings: LanguageModelSettings) -> LanguageModelSettings:
    """For two processes."""
    return dataclasses.replace(settings, batch_size=settings.batch_size // 2)


def cut_off(run: Path, copy: Path) -> None:
    """The run as it was after step 3."""
    shutil.copytree(run, copy)
    for path in (copy / "model", copy / "checkpoint-6"):
        shutil.rmtree(path)


def watch_wrapper(folder: Path, rank: int) -> None:
    """Write down, at each validation, what the model is and what its weights are."""
    original = SpeechTextTrainer.evaluate

    def evaluate(self: SpeechTextTrainer, *given: Any, **named: Any) -> dict[str, float]:
        weights, plugin = list(self.model.parameters()), getattr(self.accelerator.state, "fsdp_plugin", None)
        facts = {
            "run": Path(self.args.output_dir).name,
            "rank": rank,
            "step": self.state.global_step,
            "sharded": isinstance(self.model, FSDPModule),
            "weights": sorted({type(weight).__name__ for weight in weights}),
            "dtypes": sorted({str(weight.dtype) for weight in weights}),
            "policy": str(getattr(plugin, "mixed_precision_policy", None)),
            "numbers": sum(w.to_local().numel() if isinstance(w, DTensor) else w.numel() for w in weights),
        }
        with (folder / f"wrappers-{rank}.jsonl").open("a") as file:
            file.write(json.dumps(facts) + "\n")
        return original(self, *given, **named)

    SpeechTextTrainer.evaluate = evaluate  # type: ignore[method-assign]


class Launch:
    """As `torchrun` would start this process, for a world of itself or of both."""

    def __init__(self, rank: int, port: int) -> None:
        self.rank, self.port = rank, port

    def world(self, size: int) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        names = {"RANK": self.rank, "LOCAL_RANK": self.rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}
        self.port += 1


def main(folder: Path, rank: int, port: int) -> None:
    vocabulary = SpeechTextVocabulary.from_pretrained(folder)
    language_model.draw_curves = lambda log, picture: None  # type: ignore[attr-defined]
    gc.freeze()  # each run collects garbage, and need not search all that was imported
    watch_wrapper(folder, rank)

    def train(run: str, settings: LanguageModelSettings) -> None:
        model = tiny_model(vocabulary)
        language_model.pretrain(model, vocabulary, [folder / "corpus.parquet"], folder / run, settings)

    def first_process(prepare: Any, *paths: Path) -> None:
        if rank == 0:
            prepare(*paths)
        torch.distributed.barrier()

    # The runs of whole copies come first: FSDP2, once used, is on in a process for good.
    together, alone = Launch(rank, port), Launch(rank, port + 10)
    together.world(2)
    train("whole_2", halved(WHOLE))
    train("whole_1_then_2", halved(WHOLE))
    if rank == 0:
        alone.world(1)
        train("sharded_1", SHARDED)
        cut_off(folder / "sharded_1", folder / "sharded_1_then_2")
    together.world(2)
    train("sharded_2", halved(SHARDED))
    train("sharded_bf16", dataclasses.replace(halved(SHARDED), bf16=True))
    train("sharded_1_then_2", halved(SHARDED))
    first_process(cut_off, folder / "sharded_2", folder / "sharded_2_then_2")
    train("sharded_2_then_2", halved(SHARDED))
    first_process(shutil.rmtree, folder / "sharded_2_then_2" / "model")
    train("sharded_2_then_2", halved(SHARDED))  # as if it had been killed before its model was written
    if rank == 0:
        cut_off(folder / "sharded_2", folder / "sharded_2_then_1")
        alone.world(1)
        train("sharded_2_then_1", SHARDED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

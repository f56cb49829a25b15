"""What `test_lm_distributed` lets two processes do, in one launch: to start them takes longer than all of it.

    python lm_processes.py FOLDER RANK PORT

Each run is `pretrain` on the corpus in FOLDER with two rows a step, however many processes share them. Runs that go on
from another's checkpoint at step 3 are given a copy of its folder that was cut off there.
"""

from __future__ import annotations

import dataclasses
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
from usdm.training.language_model import pretrain
from usdm.training.lm_settings import LanguageModelSettings
from usdm.training.lm_trainer import SpeechTextTrainer

# Three rows to validate on: no multiple of two processes.
STEPS = dataclasses.replace(SETTINGS, rows=2, validate_every=3, validation_rows=3, save_every=3)
SHARDED = dataclasses.replace(STEPS, sharding="fsdp2")


def halved(settings: LanguageModelSettings) -> LanguageModelSettings:
    return dataclasses.replace(settings, rows=1)


def cut_off(run: Path, copy: Path) -> Path:
    """The run as it was after step 3."""
    shutil.copytree(run, copy)
    for path in (copy / "model", copy / "checkpoint-6"):
        shutil.rmtree(path)
    return copy


def watch_wrapper(folder: Path, rank: int) -> None:
    """Write down, at each validation, what the model is and what its weights are."""
    original = SpeechTextTrainer.evaluate

    def evaluate(self: SpeechTextTrainer, *given: Any, **named: Any) -> dict[str, float]:
        weights = list(self.model.parameters())
        facts = {
            "run": Path(self.args.output_dir).name,
            "processes": self.accelerator.num_processes,
            "sharded": isinstance(self.model, FSDPModule),
            "weights": {type(weight).__name__ for weight in weights} == {DTensor.__name__},
            "held": sum(getattr(weight, "_local_tensor", weight).numel() for weight in weights),
            "float32": {weight.dtype for weight in weights} == {torch.float32},
        }
        with (folder / f"wrappers-{rank}.jsonl").open("a") as file:
            file.write(json.dumps(facts) + "\n")
        return original(self, *given, **named)

    SpeechTextTrainer.evaluate = evaluate  # type: ignore[method-assign]


class Processes:
    """This one alone, or both."""

    def __init__(self, rank: int, port: int) -> None:
        self.rank, self.port = rank, port

    def join(self, size: int) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        self.port += 1
        names = {"RANK": self.rank, "LOCAL_RANK": self.rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}


def main(folder: Path, rank: int, port: int) -> None:
    vocabulary = SpeechTextVocabulary.from_pretrained(folder)
    watch_wrapper(folder, rank)

    def train(run: Path, settings: LanguageModelSettings, **named: Any) -> None:
        pretrain(tiny_model(vocabulary), vocabulary, [folder / "corpus.parquet"], run, settings, **named)

    def prepared(run: str, copy: str) -> Path:
        if rank == 0:
            cut_off(folder / run, folder / copy)
        torch.distributed.barrier()
        return folder / copy

    processes = Processes(rank, port)
    if rank == 0:
        processes.join(1)
        train(folder / "sharded_1", SHARDED)
        cut_off(folder / "sharded_1", folder / "sharded_1_then_2")
        cut_off(folder / "whole_1", folder / "whole_1_then_2")
    else:
        processes.port += 1
    processes.join(2)
    train(folder / "sharded_2", halved(SHARDED))
    train(folder / "sharded_1_then_2", halved(SHARDED))
    train(prepared("sharded_2", "sharded_2_then_2"), halved(SHARDED))
    if rank == 0:
        shutil.rmtree(folder / "sharded_2_then_2" / "model")
    torch.distributed.barrier()
    train(folder / "sharded_2_then_2", halved(SHARDED))  # killed before it had written its model
    if rank == 0:
        cut_off(folder / "sharded_2", folder / "sharded_2_then_1")
        processes.join(1)
        train(folder / "sharded_2_then_1", SHARDED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

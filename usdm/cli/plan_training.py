"""What training a language model will take: tokens, hours, disk, memory of each GPU."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from usdm.audio import check_output_path
from usdm.cli import Figures
from usdm.cli.plan import size
from usdm.config import arguments
from usdm.training.plan import TrainingPlan, plan_training

OWN = ("json", "seed")  # keys that the plan itself does not take


def run(config: DictConfig) -> Figures:
    if config.json is not None:
        check_output_path(config.json, ".json")
    given = {key: value for key, value in arguments(config).items() if key not in OWN}
    plan = plan_training(given.pop("architecture"), given.pop("loop"), **given)
    print(report(plan))
    if config.json is not None:
        figures = asdict(plan) | {"epochs": plan.epochs, "fits": plan.fits}
        Path(config.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return {"hours": plan.hours, "bytes_each_gpu": plan.state_bytes + plan.activation_bytes}


def report(plan: TrainingPlan) -> str:
    needed = plan.state_bytes + plan.activation_bytes
    verdict = "fits" if plan.fits else "does not fit: shard over more processes, or take adapter=lora"
    packed = size(plan.integers * plan.integer_bits // 8)
    frozen = f"integers       {plan.integers / 1e6:,.1f} M of {plan.integer_bits} bits, {packed} for all tasks together"
    return "\n".join(
        [
            f"model          {plan.parameters / 1e6:,.1f} M parameters, {plan.trained_parameters:,} trained: "
            f"{100 * plan.trained_parameters / plan.parameters:.3g} %",
            *([frozen] if plan.integers else []),
            f"tokens         {plan.tokens / 1e9:,.2f} G in {plan.steps:,} steps, {plan.epochs:.2f} epochs of about "
            f"{plan.corpus_tokens / 1e9:,.2f} G",
            f"time           {plan.hours:,.1f} hours on {plan.processes} x {plan.gpu} at {plan.efficiency:.0%} of "
            "their FLOPs",
            f"unit corpus    {size(plan.corpus_bytes)} on disk, about",
            f"checkpoint     {size(plan.checkpoint_bytes)} on disk",
            f"each GPU       {size(plan.state_bytes)} of weights, gradients and moments, about "
            f"{size(plan.activation_bytes)} of activations",
            f"               {size(needed)} of {size(plan.gpu_bytes)}: {verdict}",
        ]
    )

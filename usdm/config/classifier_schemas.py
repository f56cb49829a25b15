"""Settings of the verbs about labelled turns: intent sets, classifiers of turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from usdm.config.model_schemas import UseModel
from usdm.config.verb_schema import Verb


@dataclass
class PrepareIntents(Verb):
    intents: Any = MISSING  # a set of data_prep.intents
    output_dir: str = MISSING
    prefix: str = MISSING
    dev_share: float = MISSING
    per_intent: Any = None  # numbers by split
    only: list[str] | None = None
    seed: int = MISSING
    overwrite: bool = MISSING


@dataclass
class TrainClassifier(Verb):
    pretrained: str = MISSING
    corpora: list[str] = MISSING
    labels: str = MISSING
    label_key: str = MISSING
    hears: str = MISSING
    left_out: list[str] = MISSING
    held_out_share: float = MISSING
    target: list[str] = MISSING
    target_hears: str | None = None
    frozen: bool = MISSING
    batch_size: int = MISSING
    adapter: Any = None  # a configuration of the package peft; null: all weights are trained
    objective: Any = MISSING  # usdm.training.classifier_objectives
    loop: Any = MISSING
    output_dir: str = MISSING
    device: str = MISSING
    seed: int = MISSING
    overwrite: bool = MISSING


@dataclass
class EvaluateClassifier(Verb):
    classifier: str = MISSING
    base: str | None = None
    corpora: list[str] = MISSING
    labels: str = MISSING
    detector: Any = MISSING  # usdm.metrics.out_of_domain, by name
    out: dict[str, list[str]] = MISSING
    hears: str | None = None
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class FitRejection(UseModel):
    corpora: list[str] = MISSING
    refused_dialogs: list[str] = MISSING
    turns: int | None = None
    dev_turns: int | None = None
    kept: float = MISSING
    reply: str = MISSING
    capacity: int = MISSING
    output_dir: str = MISSING
    seed: int = MISSING
    overwrite: bool = MISSING


@dataclass
class EvaluateRejection(UseModel):
    rejection: str = MISSING
    corpora: list[str] = MISSING
    outside: list[str] = MISSING
    refused_dialogs: list[str] = MISSING
    phrase: str = MISSING
    turns: int | None = None
    capacity: int = MISSING
    output_dir: str = MISSING
    seed: int = MISSING


@dataclass
class EvaluateAdaptation(TrainClassifier):
    target_labels: str = MISSING
    split: str = MISSING


@dataclass
class PrepareShift(Verb):
    corpus: str = MISSING
    target_corpus: str | None = None
    labels: str = MISSING
    common: int = MISSING
    source_private: int = MISSING
    target_private: int = MISSING
    halved: bool = MISSING
    without: list[str] = MISSING
    source_speakers: list[str] | None = None
    target_speakers: list[str] | None = None
    output_dir: str = MISSING
    seed: int = MISSING
    overwrite: bool = MISSING

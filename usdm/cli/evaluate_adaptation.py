"""A turn classifier in its target domain; it is trained first where it is not yet."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from usdm.cli import Figures, train_classifier
from usdm.cli.written import write_report
from usdm.training.adaptation_evaluation import check_target, evaluate_adaptation
from usdm.training.classifier import load_classifier

OF_THE_TEST = ("target_labels", "split")


def run(config: DictConfig) -> Figures:
    check_target(
        train_classifier.language_model(config.pretrained),
        list(config.corpora),
        config.labels,
        list(config.target),
        config.target_labels,
        label_key=config.label_key,
        left_out=list(config.left_out),
        held_out_share=config.held_out_share,
        seed=config.seed,
        target_hears=config.target_hears or config.hears,
        split=config.split,
    )
    training = OmegaConf.masked_copy(config, [str(key) for key in config if key not in OF_THE_TEST])
    if not get_class(config.objective._target_).needs_target:  # type: ignore[attr-defined]
        training.target = []  # heard in the test alone
    train_classifier.run(training)
    folder = Path(config.output_dir)
    score = evaluate_adaptation(
        load_classifier(folder / "model"),
        list(config.corpora),
        config.labels,
        list(config.target),
        config.target_labels,
        target_hears=config.target_hears,
        split=config.split,
    )
    write_report(score, folder, "adaptation")
    found = score.target
    return {"H-score": found.h_score, "known": found.known, "unknown": found.unknown, "AUROC": found.auroc}

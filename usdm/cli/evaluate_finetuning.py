"""Loss of a fine-tuned language model by what its dialogs are about; it is fine-tuned first where it is not yet."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.cli import Figures, finetune
from usdm.cli.written import write_report
from usdm.lm import load_model
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings
from usdm.training.subject_losses import check_subjects, subject_losses


def run(config: DictConfig) -> Figures:
    asked = {"split": config.split, "agent_roles": list(config.agent_roles), "limit": config.limit}
    check_subjects(list(config.corpora), config.labels, **asked)
    finetune.run(config)
    folder = Path(config.output_dir)
    losses = subject_losses(
        load_model(folder / "model").to(config.device),
        DialogTemplate(SpeechTextVocabulary.from_pretrained(folder / "model"), TemplateSettings.load(folder / "model")),
        list(config.corpora),
        config.labels,
        max_length=config.loop.max_length,
        history_turns=config.history_turns,
        seed=config.seed,
        **asked,
    )
    write_report(losses, folder, "subject_losses")
    return {f"loss of {name}": each.loss.mean for name, each in losses.subjects.items()}

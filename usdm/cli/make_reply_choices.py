"""Which of four replies follows? Questions of any corpus of dialogs, in the format that `evaluate_knowledge` reads."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.reply_choices import RESULTS, make_reply_choices
from usdm.cli import Figures
from usdm.cli.predict import PACKAGED_SET


def run(config: DictConfig) -> Figures:
    counts = make_reply_choices(
        list(config.corpora) or [str(PACKAGED_SET)],
        config.output_dir,
        dialogs_file=config.dialogs_file,
        split=config.split,
        count=config.count,
        seed=config.seed,
        overwrite=config.overwrite,
    )
    told = ", ".join(f"{count} of {subject}" for subject, count in counts.items())
    print(f"{told} in {config.output_dir}/{RESULTS}")
    return counts

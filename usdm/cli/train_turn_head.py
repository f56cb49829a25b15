"""A small head on the encoder's states that knows when a turn is over."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli.stage import Stage
from usdm.training.turn_head import TurnHeadQuality, train_turn_head


def tell(quality: TurnHeadQuality, config: DictConfig) -> None:
    print(f"{quality.parameters} parameters, from {quality.moments} pauses; of dev pauses:")
    print(f"  whole turns likelier over than cut ones: {quality.ranking:.3f} of pairs (AUC)")
    print(f"  right at 0.5: {quality.over_right:.3f} of whole turns, {quality.unfinished_right:.3f} of cut ones")
    print(f"the head lies in {config.output_dir}/model")


run = Stage(train_turn_head, tell)

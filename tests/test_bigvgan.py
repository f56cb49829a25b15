"""BigVGAN's network, held against the package `bigvgan` 2.4.1."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from published_layout import BIGVGAN, save_bigvgan, with_weight_norm
from torch import Tensor

from usdm.types import InputError
from usdm.vocoder import load_vocoder
from usdm.vocoder.bigvgan_generator import (
    BigVGANGenerator,
    BigVGANSettings,
    Filter,
    low_pass_filter,
    without_weight_norm,
)

# What the package makes of `mel` with the weights of `weights`: every 101st sample.
OF_THE_PACKAGE: list[tuple[dict[str, Any], list[float]]] = [
    (
        {},
        [
            0.686036,
            -0.317212,
            -0.330384,
            -0.133307,
            -0.333596,
            -0.178152,
            -0.296834,
            -0.321096,
            -0.190558,
            -0.313569,
            -0.349227,
            -0.322589,
            -0.317264,
            -0.231304,
            -0.399041,
            -0.363047,
        ],
    ),
    (
        {"resblock": "2", "resblock_dilation_sizes": [[1, 3]] * 3, "activation": "snake"},
        [
            0.157527,
            0.077306,
            0.06379,
            0.094905,
            0.080908,
            0.067187,
            0.075814,
            0.090429,
            0.076212,
            0.082067,
            0.059804,
            0.099235,
            0.083737,
            0.063286,
            0.077498,
            0.0865,
        ],
    ),
    (
        {"snake_logscale": False, "use_tanh_at_final": False, "use_bias_at_final": False},
        [
            0.069594,
            0.06605,
            -0.004458,
            0.091616,
            0.028719,
            0.055638,
            0.016138,
            0.066386,
            0.103145,
            0.022481,
            0.012149,
            0.123282,
            0.041576,
            0.066191,
            0.019489,
            0.250114,
        ],
    ),
]
# Of the package's `kaiser_sinc_filter1d`, its first half.
HALF_FILTER = [0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.4432098]


def weights(generator: BigVGANGenerator, log_scale: bool) -> dict[str, Tensor]:
    """Drawn by a formula, so that another implementation can have the same."""
    state = with_weight_norm(generator)
    for index, (name, tensor) in enumerate(sorted(state.items())):
        if "filter" not in name:
            wave = 0.2 * torch.sin(torch.arange(tensor.numel()) * 0.7 + index).view(tensor.shape)
            state[name] = wave + (0.68 if name.endswith("_g") else 0.0)
            if not log_scale and name.endswith(("alpha", "beta")):
                state[name] = wave.abs() + 0.5
    return state


@pytest.mark.parametrize(("settings", "expected"), OF_THE_PACKAGE)
def test_it_is_the_packages_network(settings: dict[str, Any], expected: list[float]) -> None:
    config = BigVGANSettings.from_config(BIGVGAN | settings)
    generator = BigVGANGenerator(config)
    generator.load_state_dict(without_weight_norm(weights(generator, config.snake_logscale)))
    mel = torch.cos(torch.arange(80 * 6) * 0.3).view(1, 80, 6)
    with torch.no_grad():
        sound = generator(mel)
    assert sound.shape == (1, 1, 6 * 256)
    assert torch.allclose(sound[0, 0, ::101], torch.tensor(expected), atol=2e-5)


def test_the_package_itself_where_it_is_installed(tmp_path: Path) -> None:
    package = pytest.importorskip("bigvgan.bigvgan")
    from bigvgan.env import AttrDict

    save_bigvgan(tmp_path / "vocoder")
    other = package.BigVGAN(AttrDict(BIGVGAN))
    other.load_state_dict(torch.load(tmp_path / "vocoder" / "bigvgan_generator.pt", weights_only=True)["generator"])
    mel = torch.randn(2, 80, 9)
    with torch.no_grad():
        assert (load_vocoder(tmp_path / "vocoder")(mel) - other(mel)[:, 0]).abs().max() < 1e-5


def test_the_filter_is_the_packages() -> None:
    half = torch.tensor(HALF_FILTER)
    assert torch.allclose(low_pass_filter()[0, 0], torch.cat([half, half.flip(0)]), atol=1e-6)
    assert isinstance(Filter().filter, Tensor)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"upsample_rates": None}, "missing 1 required .*'upsample_rates'"),
        ({"resblock": "3"}, "resblock='3'"),
        ({"activation": "relu"}, "activation='relu'"),
    ],
)
def test_a_configuration_of_no_known_network(change: dict[str, Any], told: str) -> None:
    config = {name: value for name, value in (BIGVGAN | change).items() if value is not None}
    with pytest.raises(InputError, match=re.compile(told)):
        BigVGANSettings.from_config(config)

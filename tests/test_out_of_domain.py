"""Scores of turns outside a domain, against stored numbers of another implementation and against scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from usdm.metrics.out_of_domain import (
    Cosine,
    Gaussians,
    auroc,
    average_precision,
    energy,
    false_positive_rate,
    fit_gaussians,
    max_softmax,
    separation,
    threshold_that_keeps,
)
from usdm.types import InputError

REFERENCE = Path(__file__).parent / "references" / "out_of_domain.json"


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    stored = json.loads(REFERENCE.read_text())
    return {name: torch.tensor(values) for name, values in stored.items() if name != "made_by"}


def test_scores_of_logits_are_those_of_pytorch_ood(reference: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(max_softmax(reference["logits"]), reference["max_softmax"])
    torch.testing.assert_close(energy(reference["logits"]), reference["energy"])
    torch.testing.assert_close(energy(reference["logits"], 0.5), reference["energy_half"])


def test_distances_are_those_of_pytorch_ood(reference: dict[str, torch.Tensor]) -> None:
    """It has half the squared distance, under the sum of outer products with 1e-6 on its diagonal."""
    features, labels = reference["features"], reference["labels"]
    fitted = fit_gaussians(features, labels)
    centred = features - fitted.means[labels]
    scatter = centred.T @ centred + 1e-6 * torch.eye(features.shape[1])
    found = Gaussians(fitted.means, torch.linalg.inv(scatter)).scores(reference["queries"])
    torch.testing.assert_close(found / 2, reference["mahalanobis"], atol=1e-5, rtol=1e-5)


def test_the_shrunk_covariance_stands_fewer_turns_than_its_width() -> None:
    features = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    scores = fit_gaussians(features, torch.tensor([0, 0, 0, 1, 1, 1])).scores(torch.cat([features, features + 9]))
    assert torch.isfinite(scores).all() and scores[:6].min() > scores[6:].max()


def test_the_largest_cosine_is_to_the_nearest_direction() -> None:
    scorer = Cosine().fit(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    found = scorer(torch.tensor([[3.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]), torch.zeros(3, 2))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5**0.5, 0.0]))


@pytest.mark.parametrize("decimals", [8, 1])  # with and without equal scores
def test_figures_are_those_of_scikit_learn(decimals: int) -> None:
    random = np.random.default_rng(decimals)
    inside, outside = (np.round(random.normal(mean, 1, size), decimals) for mean, size in ((1, 300), (0, 170)))
    scores, is_outside = np.concatenate([-inside, -outside]), np.repeat([0, 1], [300, 170])
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(is_outside, scores))
    assert average_precision(inside, outside) == pytest.approx(average_precision_score(is_outside, scores))
    passed, kept, _ = roc_curve(1 - is_outside, -scores, drop_intermediate=False)
    assert false_positive_rate(inside, outside) == pytest.approx(passed[kept >= 0.95][0])
    assert (inside >= threshold_that_keeps(inside, 0.95)).mean() >= 0.95


def test_intervals_hold_the_figures_and_shrink_with_more_turns() -> None:
    random = np.random.default_rng(0)
    few, many = (separation(random.normal(1, 1, size), random.normal(0, 1, size), 0) for size in (30, 600))
    for name in ("auroc", "fpr95", "aupr"):
        (value, low, high), (_, other_low, other_high) = getattr(few, name), getattr(many, name)
        assert low <= value <= high and other_high - other_low < high - low


@pytest.mark.parametrize(("inside", "told"), [([], "0 turns inside"), ([float("nan")], "not finite")])
def test_what_cannot_be_judged_is_told(inside: list[float], told: str) -> None:
    with pytest.raises(InputError, match=told):
        separation(inside, [0.5], 0)

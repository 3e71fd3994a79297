"""The three verdicts, and how often chance gives each of them."""

import math
from pathlib import Path

import numpy as np
import pytest

from jaxdl.claims import (
    Claim,
    about_mean,
    about_means,
    about_quantile,
    about_ratios,
    about_share,
    as_before,
    chance_of_all,
    interval,
    read_claims,
)

RUNS = 4_000
# The claims under test allow chance this much, so that a few thousand repetitions can show it.
CHANCE = 0.02


def rate(verdict, make):
    """How often fresh draws give a verdict, and five deviations of such a share."""
    draw = np.random.default_rng(0)
    share = np.mean([make(draw).verdict == verdict for _ in range(RUNS)])
    return share, 5 * math.sqrt(CHANCE * (1 - CHANCE) / RUNS)


@pytest.mark.parametrize("measured", [np.nan, np.inf, -1e-9])
def test_what_is_not_drawn_is_decided_by_its_number(measured):
    assert Claim("positive", measured, 0.0, 1.0).refuted


def test_bands_in_words():
    assert Claim("", 0, -np.inf, 2).band == "at most 2"
    assert Claim("", 0, 1.5, np.inf).band == "at least 1.5"
    assert Claim("", 0, 1, 2).band == "1 to 2"
    assert Claim("", 0, 0, 0).band == "0"


@pytest.mark.parametrize(
    ("near", "far", "verdict"),
    [
        ((0.5, 1.5), (0.1, 1.9), "holds"),
        ((0.5, 1.5), (-0.1, 2.1), "holds"),
        ((-0.5, 1.5), (-2, 3), "undecided"),
        ((-1.5, -0.5), (-2, 0.1), "undecided"),
        ((-1.5, -0.5), (-2, -0.1), "refuted"),
    ],
)
def test_the_interval_decides(near, far, verdict):
    measured = sum(near) / 2
    assert Claim("a lead", measured, 0, np.inf, near, far, 0.1).verdict == verdict


@pytest.mark.parametrize(
    "make",
    [
        lambda draw: about_mean("", draw.normal(size=6), low=0, chance=CHANCE),
        lambda draw: about_mean("", draw.normal(size=6), high=0, chance=CHANCE),
        lambda draw: about_means("", draw.normal(size=(6, 5)), low=0, chance=CHANCE),
        lambda draw: as_before(
            "", draw.normal(size=6), (old := draw.normal(size=9)).mean(), old.std(ddof=1),
            over=9, chance=CHANCE / 2,
        ),
        lambda draw: about_ratios("", draw.lognormal(size=(6, 5)), low=1, chance=CHANCE),
        lambda draw: about_ratios("", draw.lognormal(size=6), high=1, chance=CHANCE),
        lambda draw: about_share("", draw.binomial(30, 0.3), 30, high=0.3, chance=CHANCE),
        lambda draw: about_quantile("", draw.exponential(size=30), low=np.log(2), chance=CHANCE),
    ],
)  # fmt: skip
def test_chance_refutes_what_is_just_true_no_oftener_than_stated(make):
    share, noise = rate("refuted", make)
    assert share <= CHANCE + noise


@pytest.mark.parametrize(
    "make",
    [
        lambda draw: about_mean("", draw.normal(size=6), low=0, chance=CHANCE),
        lambda draw: about_ratios("", draw.lognormal(size=6), low=1, chance=CHANCE),
        lambda draw: about_share("", draw.binomial(30, 0.3), 30, high=0.3, chance=CHANCE),
        lambda draw: about_quantile("", draw.exponential(size=30), low=np.log(2), chance=CHANCE),
    ],
)
def test_what_is_just_not_true_seldom_holds(make):
    share, noise = rate("holds", make)
    assert share <= 0.025 + noise


def test_a_false_claim_is_refuted():
    draw = np.random.default_rng(0)
    assert about_mean("", draw.normal(-5, 1, 10), low=0).refuted
    assert about_means("", draw.normal([0, 9, 9], 1, (10, 3)), low=5).refuted
    assert as_before("", draw.normal(5, 1, 10), 0.0, 1.0, over=10).refuted
    assert about_ratios("", draw.lognormal(-5, 1, 10), low=1).refuted
    assert about_share("", 30, 40, high=0.2).refuted
    assert about_quantile("", draw.normal(9, 1, 50), high=0).refuted


def test_of_several_means_the_one_that_decides_is_shown():
    draws = np.random.default_rng(0).normal([3, 1, 2], 0.1, (8, 3))
    assert about_means("", draws, low=0).measured == pytest.approx(draws[:, 1].mean())
    assert about_means("", draws, high=4).measured == pytest.approx(draws[:, 0].mean())


@pytest.mark.parametrize("make", [about_mean, lambda text, values: about_quantile(text, values)])
def test_a_run_that_is_no_number_refutes(make):
    assert make("", [1.0, np.nan, 2.0]).refuted


def test_the_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(5, 20_000))
    mean, half_width = interval(draws)
    covered = (np.abs(mean) < half_width).mean()
    # A binomial share of 20,000 around 0.95 has a deviation of 0.0015: five of them.
    assert covered == pytest.approx(0.95, abs=5 * 0.0015)


def test_one_run_shows_no_spread():
    with pytest.raises(ValueError, match="at least 2 runs, got 1; run more seeds"):
        about_mean("", [1.0])


def test_chances_add_up():
    drawn = about_mean("", [1.0, 2.0, 3.0])
    assert chance_of_all([drawn, drawn, Claim("exact", 1, 1, 1)]) == pytest.approx(2e-4)


@pytest.mark.parametrize("never", [0.0, np.inf, np.nan])
def test_a_ratio_without_a_logarithm_refutes(never):
    assert about_ratios("", [1.0, never, 2.0], low=0.1).refuted
    assert about_ratios("", [1.0, 1.5, 2.0], low=0.1).holds


@pytest.mark.parametrize(
    ("text", "meaning", "quantity"),
    [
        ("He keeps the signal: halvings; 5 seeds", "He keeps the signal", "halvings; 5 seeds"),
        ("One: two: three", "One", "two: three"),
        ("a ratio of 3:1", "a ratio of 3:1", ""),
    ],
)
def test_the_first_colon_divides_what_it_means_from_what_was_measured(text, meaning, quantity):
    claim = Claim(text, 1, 0, 2)
    assert (claim.meaning, claim.quantity) == (meaning, quantity)


def test_every_claim_that_the_project_keeps_says_both():
    kept = sorted((Path(__file__).parents[2] / "docs" / "gallery").glob("*/claims.json"))
    assert len(kept) > 40
    claims = [claim for file in kept for claim in read_claims(file.parent)]
    assert [claim.text for claim in claims if not claim.meaning or not claim.quantity] == []

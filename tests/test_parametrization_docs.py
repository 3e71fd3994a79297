"""The guide's table of rules is what the code does, and mup's columns are the same network."""

import re

import pytest
from pages import DOCS

from jaxdl.training.widths.width_rules import ROLES, factors

PAGE = (DOCS / "guides" / "parametrization.md").read_text(encoding="utf-8")
ROWS = {
    role: re.findall(r"`([^`]+)`", rest)
    for role, rest in re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.M)
}
RATIOS = [(4.0, 4.0), (2.0, 8.0), (3.0, 1.0), (1.0, 5.0)]


def numbers(role, r_in, r_out):
    return [float(eval(text, {"r_in": r_in, "r_out": r_out})) for text in ROWS[role]]


def test_the_table_has_every_role():
    assert tuple(ROWS) == ROLES
    assert {len(row) for row in ROWS.values()} == {7}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("r_in", "r_out"), RATIOS)
def test_the_rules_are_those_of_the_code(role, r_in, r_out):
    start, sgd, adam, *_ = numbers(role, r_in, r_out)
    assert factors("maximal_update", role, r_in, r_out) == pytest.approx((start, sgd, adam))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("r_in", "r_out"), RATIOS)
def test_mups_columns_fold_into_the_same_rules(role, r_in, r_out):
    start, sgd, adam, forward, *of_mup = numbers(role, r_in, r_out)
    its_start, its_sgd, its_adam = of_mup
    assert (start, sgd, adam) == pytest.approx(
        (forward * its_start, forward**2 * its_sgd, forward * its_adam)
    )

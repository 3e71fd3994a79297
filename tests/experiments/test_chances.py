"""All scripts together: how likely chance refutes a claim that is true."""

import functools
import importlib
import importlib.util
from pathlib import Path

import pytest

from jaxdl.claims import chance_of_all

HERE = Path(__file__).parent
SCRIPTS = sorted(
    path.stem
    for path in (HERE.parents[1] / "experiments").rglob("*.py")
    if path.stem != "__main__" and "benchmarks" not in path.parts
)
AT_MOST = 0.05


@functools.cache
def modules_with_results():
    """The tests beside this one, which have the made-up results of every script."""
    modules = []
    for path in sorted(HERE.glob("test_*.py")):
        if path != Path(__file__):
            spec = importlib.util.spec_from_file_location(f"results_in_{path.stem}", path)
            modules.append(importlib.util.module_from_spec(spec))
            spec.loader.exec_module(modules[-1])
    return modules


def claims_of(script):
    """The claims of a script about the results that its test makes up."""
    (make,) = [
        getattr(module, f"{script}_results")
        for module in modules_with_results()
        if hasattr(module, f"{script}_results")
    ]
    return importlib.import_module(script).claims(make())


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_drawn_states_its_chance_and_what_is_not_has_none(script):
    claims = claims_of(script)
    assert claims
    for claim in claims:
        assert (claim.interval is None) == (claim.chance == 0), claim.text


def test_chance_refutes_a_true_claim_in_less_than_5_percent_of_all_runs_of_everything():
    assert 0 < sum(chance_of_all(claims_of(script)) for script in SCRIPTS) < AT_MOST

"""docs/scaling.md: its arithmetic runs, its tables are what it gives, its numbers were measured."""

import json
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor

import jax
import pytest
from pages import DOCS, blocks_of, run_blocks

from jaxdl import training

PAGE = DOCS / "scaling.md"
TEXT = PAGE.read_text(encoding="utf-8")
MEASURED = json.loads((DOCS / "static" / "scaling_costs.json").read_text(encoding="utf-8"))


def test_the_tables_are_what_the_page_computes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = run_blocks(PAGE)["lines"]
    assert len(lines) > 10
    assert [line for line in lines if line not in TEXT.splitlines()] == []


def test_the_costs_are_those_measured():
    rows = dict(re.findall(r"^\| [^|]* \| `([^`|]+)` \| ([^|]+) \|$", TEXT, re.M))
    assert set(rows) == set(MEASURED["costs"])
    units = {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12, "MB": 1e6, "kB": 1e3}
    for name, said in rows.items():
        number, unit = said.split()
        # Two figures are shown.
        assert float(number) * units[unit] == pytest.approx(MEASURED["costs"][name], rel=0.05), name


def test_the_pods_start_and_driver_are_those_measured():
    space = run_blocks(PAGE)
    for name, cost in (("START", "start of a worker"), ("DRIVER", "call at the driver")):
        assert space[name] == pytest.approx(MEASURED["costs"][cost], rel=0.05)


@pytest.mark.slow
def test_jobs_of_another_kind_become_an_executor():
    (code,) = [code for remark, _, code in blocks_of(PAGE) if "test_scaling_docs" in remark]
    space = {}
    exec(code, space)

    def member(key, *, scale):
        return {"value": scale * jax.random.normal(key, (3,))}

    settings = {"over": {"scale": [1.0, 2.0]}, "seeds": 1, "chunk": 1}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1) as inner:
        jobs = space["Jobs"](lambda *task: inner.submit(*task).result(), at_once=2)
        found = training.sweep(member, executor=jobs, **settings)
    assert found.equals(training.sweep(member, **settings))

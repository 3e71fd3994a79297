"""The tables of docs/guides/from_pytorch.md name what is there, on both sides."""

import ast
import functools
import importlib
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from pages import DOCS

PAGE = (DOCS / "guides" / "from_pytorch.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## Dictionary")[2].splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| PyTorch |"))
]
ROOMS = "data diagnostics initializers losses models observers optimizers training"
OURS = {
    "jax": jax, "jnp": jnp, "np": np, "optax": optax, "nn": linen, "partial": functools.partial,
    "schedules": importlib.import_module("jaxdl.optimizers.schedules"),
    "BatchNorm": importlib.import_module("jaxdl.layers").BatchNorm,
} | {room: importlib.import_module(f"jaxdl.{room}") for room in ROOMS.split()}  # fmt: skip


def named(expression, rooms):
    """The objects that an expression names, each with the keywords that it is called with."""
    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError:
        return  # words, such as `DataLoader workers`
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if id(node) in inner or not isinstance(node, ast.Attribute | ast.Name):
            continue
        room, *path = ast.unparse(node).split(".")
        if room in rooms and re.fullmatch(r"[\w.]+", ast.unparse(node)):
            thing = functools.reduce(getattr, path, rooms[room])
            call = called.get(id(node))
            yield thing, [each.arg for each in call.keywords] if call else []


def check(expression, rooms):
    found = list(named(expression, rooms))
    for thing, keywords in found:
        if keywords and thing is not functools.partial:
            accepted = inspect.signature(thing).parameters
            assert set(keywords) <= set(accepted), (expression, sorted(accepted))
    return len(found)


def test_there_are_tables():
    assert len(ROWS) > 50
    assert all(len(row) == 3 for row in ROWS)


def test_what_is_here_is_here():
    cells = [expression for _, here, _ in ROWS for expression in re.findall(r"`([^`]+)`", here)]
    assert sum(check(cell, OURS) for cell in cells) > 50


def test_settings_of_losses_are_theirs():
    for cell in re.findall(r"`partial\((losses\.\w+), ([^`]+)\)`", PAGE):
        assert check(f"{cell[0]}({cell[1]})", OURS) == 1


@pytest.mark.parity
def test_what_is_pytorchs_is_there():
    torch = pytest.importorskip("torch")
    importlib.import_module("torch.optim.swa_utils")
    cells = [expression for theirs, *_ in ROWS for expression in re.findall(r"`([^`]+)`", theirs)]
    assert sum(check(cell, {"torch": torch}) for cell in cells) > 30


@pytest.mark.parametrize(
    "expression",
    ["optimizers.adamm(1e-3)", "optimizers.adam(1e-3, eps=1e-8)", "training.fit(epoch=2)"],
)
def test_a_slip_is_seen(expression):
    with pytest.raises((AttributeError, AssertionError)):
        check(expression, OURS)

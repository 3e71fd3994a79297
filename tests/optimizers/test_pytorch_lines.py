"""Docstrings say in one line, "PyTorch: ...", which arguments give PyTorch's numerics."""

import ast
import inspect
import re

import conventions
import pytest

from jaxdl import initializers, layers, losses, optimizers

DEFAULTS = "the defaults"


def said(function):
    """The keyword arguments of the docstring's line, or None where there is no such line."""
    paragraphs = inspect.getdoc(function).split("\n\n")
    lines = [" ".join(each.split()) for each in paragraphs if each.startswith("PyTorch: ")]
    if not lines:
        return None
    (line,) = lines  # one line, in one place
    if line.removeprefix("PyTorch: ").startswith(DEFAULTS):
        return {}
    (arguments,) = re.findall(r"^PyTorch: `([^`]*=[^`]*)`", line)
    return keywords(f"f({arguments})")


def keywords(expression):
    return {
        each.arg: ast.unparse(each.value)
        for each in ast.parse(expression, mode="eval").body.keywords
    }


def tables():
    """By optimizer: the arguments that make PyTorch's of the lecture's form, from the docs' table.

    Left out are those that choose a variant (they stand in the lecture's column too) and those
    that PyTorch is given as well.
    """
    found = {}
    for lecture, ours, theirs, *_ in conventions.rows():
        name = ours.partition("(")[0]
        if not theirs or name.startswith("optax"):
            continue
        variant = keywords(lecture)
        found.setdefault(name, {}).update(
            (key, value) for key, value in keywords(ours).items()
            if key not in variant and f"={_as_written(value, ours)}" not in theirs
        )  # fmt: skip
    return found


def _as_written(value, expression):
    """1e-3, where Python writes 0.001."""
    numbers = re.findall(r"=([\d.e*-]+)", expression)
    return next((each for each in numbers if repr(_number(each)) == value), value)


def _number(text):
    return ast.literal_eval(text)


def test_the_table_has_every_optimizer_of_both():
    assert set(tables()) == {
        "sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "adamax",
        "nadam", "radam", "adafactor", "muon",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(tables()))
def test_an_optimizer_says_what_the_table_checks(name):
    assert said(getattr(optimizers, name)) == tables()[name]


@pytest.mark.parity
def test_no_optimizer_of_torch_is_left_out():
    torch = pytest.importorskip("torch")
    shared = {name.lower() for name in vars(torch.optim)} & set(optimizers.__all__)
    assert shared >= {"adam", "rmsprop", "sgd"}
    assert shared <= set(tables())


@pytest.mark.parametrize(
    ("room", "names"),
    [
        (optimizers, "l2 decoupled_decay clip_by_value clip_by_global_norm ema swa"),
        (losses, "cross_entropy mean_squared_error mean_absolute_error huber binary_cross_entropy"),
        (losses, "kl_divergence poisson"),
        (layers, "BatchNorm"),
        (initializers, "he_normal glorot_normal truncated_normal"),
    ],
)
def test_what_has_a_counterpart_says_so(room, names):
    for name in names.split():
        thing = getattr(room, name)
        arguments = said(thing)
        assert arguments is not None, name
        assert set(arguments) <= set(inspect.signature(thing).parameters), name

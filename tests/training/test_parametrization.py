"""Starts and rates by width: the rules, the roles in models of all libraries, and bad input."""

import functools
import math
from typing import Any
from unittest import mock

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from foreign import language
from foreign.language import LSTM, Decoder, Experts

from jaxdl import calling, layers, models, optimizers, training
from jaxdl.initializers import glorot_normal, he_normal, lecun_normal, normal
from jaxdl.training.widths.starts_by_width import Sizes, start_powers

KEY, X = jax.random.key(0), jax.random.normal(jax.random.key(1), (6, 4))
TOKENS = jnp.arange(12).reshape(2, 6) % 7
BASE, WIDE, RATIO = 32, 128, 4.0


def mlp(width, **settings):
    return models.MLP([width, width, 3], **settings)


def transformer(width, **settings):
    return models.Transformer(7, features=width, layers=2, **{"heads": 2, "length": 6, **settings})


def maximal(make, inputs=X, **settings):
    return training.parametrization("maximal_update", make(WIDE), make(BASE), inputs, **settings)


def roles(found):
    return {row.name: (row.role, row.r_in, row.r_out) for row in found.parameters}


INPUT, HIDDEN, OUTPUT = ("input", 1, RATIO), ("hidden", RATIO, RATIO), ("output", RATIO, 1)
FIXED = ("fixed", 1, 1)


# What a parameter is.


def function(width):
    """Its kernels are (out, in), unlike Flax's."""

    def apply(params, x):
        for w, b in params[:-1]:
            x = jnp.tanh(x @ w.T + b)
        return x @ params[-1][0].T

    def init(key, inputs):
        sizes = [inputs.shape[-1], width, width, 3]
        keys = jax.random.split(key, 3)
        return [
            (jax.random.normal(key, (out, fan)) / math.sqrt(fan), jnp.zeros(out))
            for key, fan, out in zip(keys, sizes, sizes[1:], strict=False)
        ]

    return calling.adapt(apply, init)


class Branches(nnx.Module):
    def __init__(self, width):
        rngs = nnx.Rngs(0)
        self.inner = nnx.Linear(4, width, rngs=rngs)
        self.square = nnx.Linear(width, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 3, use_bias=False, rngs=rngs)

    def __call__(self, x, *, train: bool):
        x = self.norm(self.square(self.inner(x)), use_running_average=not train)
        return self.head(nnx.relu(x))


def equinox(width):
    return eqx.nn.MLP(4, 3, width, 2, key=KEY)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            functools.partial(mlp, norm=layers.BatchNorm, dropout_rate=0.5),
            {"dense_0/kernel": INPUT, "dense_1/kernel": HIDDEN, "dense_2/kernel": OUTPUT,
             "dense_2/bias": FIXED, **{f"norm_{n}/{p}": INPUT for n in (0, 1)
                                       for p in ("bias", "scale")}},
        ),
        (
            function,
            {"0/0": INPUT, "0/1": INPUT, "1/0": HIDDEN, "1/1": INPUT, "2/0": OUTPUT, "2/1": FIXED},
        ),
        (
            equinox,
            {**{f"layers/{n}/bias": INPUT for n in (0, 1)}, "layers/0/weight": INPUT,
             "layers/1/weight": HIDDEN, "layers/2/weight": OUTPUT, "layers/2/bias": FIXED},
        ),
        (
            Branches,
            {"inner/kernel": INPUT, "inner/bias": INPUT, "square/kernel": HIDDEN,
             "square/bias": INPUT, "norm/scale": INPUT, "norm/bias": INPUT,
             "head/kernel": OUTPUT},
        ),
    ],
    ids=["linen", "function", "equinox", "nnx"],
)  # fmt: skip
def test_the_roles_in_models_of_every_library(make, expected):
    assert roles(maximal(make)) == expected


@pytest.mark.parametrize("blocks", ["plain", "scan"])
def test_the_roles_in_a_transformer(blocks):
    found = roles(maximal(functools.partial(transformer, blocks=blocks), TOKENS))
    for name, role in found.items():
        if name.startswith("head"):
            assert role == (OUTPUT if "kernel" in name else FIXED)
        else:
            assert role == (HIDDEN if "kernel" in name else INPUT), name


@pytest.mark.parametrize(
    ("of_base", "of_model"), [((2, 32), (2, 128)), ((2, 32), (8, 128)), ((2, 32), (4, 128))]
)
def test_heads_that_grow_in_width_or_in_number(of_base, of_model):
    base, model = (transformer(width, heads=heads) for heads, width in (of_base, of_model))
    found = roles(training.parametrization("maximal_update", model, base, TOKENS))
    for name in ("query/kernel", "value/kernel", "out/kernel"):
        assert found[f"block_0/attention/{name}"] == HIDDEN
    assert found["block_0/attention/query/bias"] == INPUT


def test_kernels_of_convolutions_and_widths_that_grow_unlike():
    images = jnp.ones((1, 8, 8, 3))
    narrow, wide = models.ConvNet([8, 8], [16, 3]), models.ConvNet([16, 32], [128, 3])
    found = roles(training.parametrization("maximal_update", wide, narrow, images))
    assert found["conv_0/kernel"] == ("input", 1, 2)
    assert found["conv_1/kernel"] == ("hidden", 2, 4)
    assert found["head/dense_0/kernel"] == ("hidden", 4, 8)
    assert found["head/dense_1/kernel"] == ("output", 8, 1)


class Sized(nn.Module):
    """A stranger's model, whose width is a constant of its file."""

    inner: nn.Module
    width: int

    @nn.compact
    def __call__(self, ids: Any) -> Any:
        with mock.patch.object(language, "WIDTH", self.width):
            return self.inner(ids)


@pytest.mark.parametrize("make", [LSTM, Experts], ids=["lstm", "experts"])
def test_the_roles_in_models_of_strangers(make):
    found = roles(maximal(lambda width: Sized(make(), width), language.IDS))
    wide = {name: role for name, role in found.items() if role != FIXED}
    assert {role for role in wide.values() if role[0] == "output"} == {OUTPUT}
    assert wide["inner/embed/embedding"] == INPUT
    assert wide["inner/logits/kernel"] == OUTPUT
    kernels = [name for name in wide if name.endswith("kernel") and name.count("/") > 2]
    expected = {HIDDEN} if make is LSTM else {HIDDEN, OUTPUT}
    assert kernels
    assert {wide[name] for name in kernels} <= expected


# Starts.


def rms(leaf):
    return float(jnp.sqrt(jnp.mean(jnp.square(leaf))))


@pytest.mark.parametrize(
    "init", [lecun_normal(), he_normal(), glorot_normal(), normal(0.0, 0.2)], ids=repr
)
def test_starts_have_the_bases_sizes_by_the_rule(init):
    """Whatever power of the width the model's own initializer has."""

    def make(width):
        return models.MLP([width, width, 3], kernel_init=init)

    base = make(256).init(KEY, X, train=False)["params"]
    found = training.parametrization("maximal_update", make(1024), make(256), X)
    params = found.init(KEY, X)["params"]
    for row in found.parameters:
        layer, name = row.name.split("/")
        if name == "kernel":
            ratio = rms(params[layer][name]) / rms(base[layer][name])
            wanted = {"input": 1, "hidden": 4**-0.5, "output": 4**-1.0}[row.role]
            entries = base[layer][name].size
            # The root mean square of n normal numbers varies by 1 / sqrt(2 n); five of these. Under
            # Glorot the fans of the last layer are no multiples of each other: 2.4 / 2 of 4 in all.
            limit = 5 / math.sqrt(2 * entries) + (0.03 if "glorot" in repr(init) else 0)
            assert ratio == pytest.approx(wanted, rel=limit), row.name


def test_tables_and_constants_do_not_shrink():
    base = transformer(BASE).init(KEY, TOKENS, train=False)["params"]
    params = maximal(transformer, TOKENS).init(KEY, TOKENS)["params"]
    ratio = rms(params["embed"]["embedding"]) / rms(base["embed"]["embedding"])
    assert ratio == pytest.approx(1, rel=5 / math.sqrt(2 * base["embed"]["embedding"].size))
    np.testing.assert_array_equal(params["norm"]["scale"], 1)


def test_at_the_bases_width_nothing_changes():
    found = training.parametrization("maximal_update", mlp(BASE), mlp(BASE), X, delta=mlp(WIDE))
    assert all(row[2:] == (1,) * 6 for row in found.parameters)
    own = mlp(BASE).init(KEY, X, train=False)
    jax.tree.map(np.testing.assert_array_equal, found.init(KEY, X), own)


def test_standard_changes_nothing():
    found = training.parametrization("standard", mlp(WIDE), mlp(BASE), X)
    own = mlp(WIDE).init(KEY, X, train=False)
    jax.tree.map(np.testing.assert_array_equal, found.init(KEY, X), own)
    assert found.optimizer(optimizers.adam, 0.1) == optimizers.adam(0.1)


# What is refused.


class Tied(nn.Module):
    width: int

    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(7, self.width, name="embed")
        return embed.attend(nn.LayerNorm(name="norm")(embed(ids)))


def test_a_shared_table_is_refused_and_its_norm_can_take_the_factor():
    with pytest.raises(ValueError, match=r"embed/embedding \(7, 128\) is input and output at once"):
        maximal(Tied, TOKENS)
    found = maximal(Tied, TOKENS, roles={"embed": "input"}, multipliers={"norm": 1 / RATIO})
    by_name = {row.name: row for row in found.parameters}
    assert by_name["norm/scale"].start == 1 / RATIO
    assert by_name["embed/embedding"].adam == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "mup"}, "kind must be one of standard, neural_tangent, maximal_update"),
        ({"base": mlp(WIDE)}, "must change the shape of a parameter, and model and base have the"),
        (
            {"base": models.MLP([BASE, 3])},
            r"must have the same parameters .* dense_2/bias, dense_2/kernel in one only",
        ),
        ({"base": transformer(BASE), "model": mlp(WIDE)}, "."),
        ({"base": models.MLP([BASE, BASE, 5]), "delta": models.MLP([WIDE, WIDE, 5])},
         r"delta must change every width .* dense_2/bias, dense_2/kernel"),
        ({"roles": {"dense_1/kernel": "matrix"}}, "the role of 'dense_1/kernel' must be one of"),
        ({"roles": {"dense_7": "input"}}, "a pattern of roles must fit a parameter"),
        ({"roles": {"dense_1/bias": "hidden"}}, r"must have two axes that grow, and dense_1/bias"),
        ({"multipliers": {"query": 0.5}}, "a pattern of multipliers must fit a parameter"),
        ({"multipliers": {"dense_1": 0.0}}, "the multiplier of 'dense_1' must be"),
        ({"kind": "standard", "multipliers": {"dense_1": 0.5}}, "multipliers belong to"),
    ],
)  # fmt: skip
def test_what_is_refused(settings, message):
    given: Any = {"kind": "maximal_update", "model": mlp(WIDE), "base": mlp(BASE), **settings}
    with pytest.raises((ValueError, TypeError), match=message):
        training.parametrization(inputs=X, **given)


@pytest.mark.parametrize("inputs", [(1, 4), [[1.0, 2.0]], {"image": (1, 4)}])
def test_numbers_are_no_inputs(inputs):
    with pytest.raises(TypeError, match=r"got the bare .*make jax\.ShapeDtypeStruct\(\(1, 28"):
        maximal(mlp, inputs)


def test_it_may_be_made_inside_of_a_compiled_function():
    outside, rows = maximal(mlp), []

    @jax.jit
    def start(key, inputs):
        found = maximal(mlp, inputs)
        rows.append(found.parameters)
        return found.init(key, inputs)["params"]

    expected = outside.init(KEY, X)["params"]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), start(KEY, X), expected)
    assert rows == [outside.parameters]


def test_a_depth_that_changes_in_a_scan_is_no_width():
    base, model = (
        models.Transformer(7, features=8, layers=depth, heads=2, length=6, blocks="scan")
        for depth in (2, 4)
    )
    with pytest.raises(ValueError, match=r"axis 0 of blocks/.* it counts layers"):
        training.parametrization("maximal_update", model, base, TOKENS)


def test_a_start_that_is_no_power_of_the_width_is_refused():
    def make(width):
        return mlp(width, kernel_init=normal(0.0, width**-0.25))

    narrow, wide = make(4), make(64)
    with pytest.raises(ValueError, match=r"must be a power of the width.*pass models whose widths"):
        training.parametrization("maximal_update", wide, narrow, X)


class Torchlike(nn.Module):
    """Weights and biases start in (-k, k), k = 1 / sqrt(fan_in), as in PyTorch and Equinox."""

    widths: tuple[int, int]

    @nn.compact
    def __call__(self, x):
        for width in (*self.widths, 2):
            bound = x.shape[-1] ** -0.5

            def start(key, shape, dtype=jnp.float32, bound=bound):
                return jax.random.uniform(key, shape, dtype, -bound, bound)

            x = nn.tanh(nn.Dense(width, kernel_init=start, bias_init=start)(x))
        return x


class Linears(eqx.Module):
    a: eqx.nn.Linear
    b: eqx.nn.Linear
    c: eqx.nn.Linear

    def __init__(self, width, other):
        keys = jax.random.split(KEY, 3)
        self.a = eqx.nn.Linear(4, width, key=keys[0])
        self.b = eqx.nn.Linear(width, other, key=keys[1])
        self.c = eqx.nn.Linear(other, 2, key=keys[2])

    def __call__(self, x):
        return self.c(jnp.tanh(self.b(jnp.tanh(self.a(x)))))


@pytest.mark.parametrize(
    ("widths", "base"), [((256, 512), (128, 128)), ((64, 64), (16, 16)), ((64, 32), (8, 16))]
)
def test_biases_that_start_by_the_fan_in_get_the_bases_size(widths, base):
    """The fan_in of the second layer is the first width, that of the third is the second."""
    found = training.parametrization("maximal_update", Torchlike(widths), Torchlike(base), X)
    rescale = {row.name: row.rescale for row in found.parameters}
    r_first, r_second = (wide / narrow for wide, narrow in zip(widths, base, strict=True))
    assert rescale == {
        "Dense_0/bias": 1, "Dense_0/kernel": 1,
        "Dense_1/bias": pytest.approx(r_first**0.5), "Dense_1/kernel": 1,
        "Dense_2/bias": pytest.approx(r_second**0.5),
        # r^-1 of the rule over the own r^-1/2.
        "Dense_2/kernel": pytest.approx(r_second**-0.5),
    }  # fmt: skip


def test_uneven_widths_of_equinox():
    found = training.parametrization("maximal_update", Linears(256, 512), Linears(128, 128), X[:1])
    rows = {row.name: (row.r_in, row.r_out, row.rescale) for row in found.parameters}
    assert rows["b/bias"] == (1, 4, pytest.approx(2**0.5))
    assert rows["b/weight"] == (2, 4, 1)


def test_small_models_have_sharp_starts():
    found = training.parametrization(
        "maximal_update", models.MLP([8, 8, 2]), models.MLP([4, 4, 2]), X
    )
    rescale = {row.name: row.rescale for row in found.parameters}
    # He's or LeCun's start is by the fan_in: r^-1 of the rule over r^-1/2 for the outputs alone.
    assert {name for name, by in rescale.items() if by != 1} == {"dense_2/kernel"}
    assert rescale["dense_2/kernel"] == pytest.approx(2**-0.5)


def test_the_interval_may_hold_one_multiple_of_the_power():
    sizes, other = {"w": Sizes(-0.07 * np.log(2), 0.0)}, {"w": Sizes(0.0, 0.115 * np.log(2))}
    assert start_powers(sizes, other, {"w": (2.0,)}) == {"w": (0, 0.0)}
    with pytest.raises(ValueError, match=r"that of w is -0\.07, known to 0\.45"):
        start_powers(sizes, {"w": Sizes(0.0, 0.225 * np.log(2))}, {"w": (2.0,)})
    with pytest.raises(ValueError, match=r"that of w is -0\.26, known to 0\.02"):
        start_powers(
            {"w": Sizes(-0.26 * np.log(2), 0.01 * np.log(2))}, {"w": Sizes(0.0, 0.0)},
            {"w": (2.0,)},
        )  # fmt: skip


def test_a_use_that_is_not_understood_is_refused_and_can_be_told():
    class Low(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            x = nn.Dense(self.width, name="in")(x)
            down = self.param("down", lecun_normal(), (self.width, 2))
            up = self.param("up", lecun_normal(), (2, self.width))
            return nn.Dense(3, name="out")(x @ (down @ up))

    with pytest.raises(ValueError, match=r"down \(128, 2\) is used in a way that is not"):
        maximal(Low)
    found = roles(maximal(Low, roles={"down": "output", "up": "input"}))
    assert (found["down"], found["up"]) == (OUTPUT, INPUT)


def test_an_optimizer_of_another_model_or_an_unknown_rule_is_refused():
    found = maximal(mlp)
    with pytest.raises(ValueError, match=r"the rule of 'adam' is not known; pass rule="):
        found.optimizer(optax.adam, 0.1)
    assert found.optimizer(optax.adam, 0.1, rule="adam")
    with pytest.raises(ValueError, match="rule must be one of sgd, adam"):
        found.scaled(optimizers.sgd(0.1), "rprop")
    with pytest.raises(ValueError, match=r"must train its own model, got other parameters: b"):
        found.optimizer(optimizers.sgd, 0.1).init({"b": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"must be those of the parametrisation's model"):
        found.rescale({"params": {"b": jnp.ones(3)}})


def test_it_shows_itself():
    found = maximal(mlp)
    assert repr(found) == (
        "Parametrization(maximal_update, MLP, 4 times as wide; 6 parameters: input 3, hidden 1, "
        "fixed 1, output 1)"
    )
    assert found.table().row_count == 6
    assert "dense_1/kernel" in found._repr_html_()


def test_boxed_parameters_of_a_stranger_keep_their_boxes():
    make = functools.partial(Decoder, "scan")
    found = maximal(
        lambda width: Sized(make(), width), language.IDS, roles={"inner/embed": "input"}
    )
    by_role = {row.role for row in found.parameters}
    assert by_role == {"input", "hidden"}
    kernel = found.init(KEY, language.IDS)["params"]["inner"]["blocks"]["qkv"]["kernel"]
    assert isinstance(kernel, nn.Partitioned)

"""Models as strangers write them: how they are called, and what in them is a signal."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses, training
from jaxdl.diagnostics import graph, histograms, propagation, summary

ROUNDING = 1e-5


def init(model: nn.Module, *inputs: Any, **settings: Any) -> Any:
    return model.init(jax.random.key(0), *inputs, **settings)


def normal(*shape: int, seed: int = 1) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


class Variational(nn.Module):
    """Draws in evaluation too, from a stream with a name of its own."""

    @nn.compact
    def __call__(self, x):
        mean = nn.Dense(3, name="mean")(x)
        noise = jax.random.normal(self.make_rng("latent"), mean.shape)
        return nn.Dense(4, name="decoder")(mean + noise)


def test_random_numbers_in_evaluation():
    batch = {"inputs": normal(8, 4), "targets": normal(8, 4)}
    streams = {"params": jax.random.key(0), "latent": jax.random.key(1)}
    variables = Variational().init(streams, batch["inputs"])
    task = training.Task(Variational(), losses.mean_squared_error, evaluation_seed=3)
    by_seed = propagation(task, variables, batch, train=False)
    by_key = propagation(
        Variational(), variables, batch, loss=losses.mean_squared_error, train=False,
        key=jax.random.key(3),
    )  # fmt: skip
    assert by_seed.names == ("mean", "mean/activation", "decoder")
    np.testing.assert_array_equal(by_seed.stddev, by_key.stddev)
    with pytest.raises(ValueError, match="key=None with train=False"):
        propagation(Variational(), variables, batch, loss=losses.mean_squared_error, train=False)


class Phased(nn.Module):
    """A mode with a name of its own, and keywords that are passed on."""

    @nn.compact
    def __call__(self, x, **settings):
        x = nn.Dense(6, name="first")(x)
        x = nn.Dropout(0.5, name="drop", deterministic=not settings["phase"])(x)
        return nn.Dense(1, name="last")(x)


def test_a_mode_of_any_name():
    batch = {"inputs": normal(8, 4), "targets": normal(8, 1)}
    variables = init(Phased(), batch["inputs"], phase=False)
    called: dict[str, Any] = {"mode": "phase"}
    measured = propagation(
        Phased(), variables, batch, loss=losses.mean_squared_error, key=jax.random.key(1), **called
    )
    assert measured.names == ("first", "drop", "last")
    counted = histograms(Phased(), variables, batch, key=jax.random.key(1), **called)
    assert counted.names == measured.names
    assert summary(Phased(), batch["inputs"], train=True, **called).names == measured.names
    assert len(graph(Phased(), batch["inputs"], train=True, **called).nodes) == 5


class Matching(nn.Module):
    """Two inputs, one network."""

    @nn.compact
    def __call__(self, left, right):
        dense = nn.Dense(5, name="dense")
        return nn.Dense(1, name="head")(jnp.abs(dense(left) - dense(right)))


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_several_inputs(as_dictionary):
    left, right = normal(8, 4), normal(8, 4, seed=2)
    inputs: Any = {"left": left, "right": right} if as_dictionary else (left, right)
    batch = {"inputs": inputs, "targets": normal(8, 1)}
    variables = init(Matching(), left, right)
    measured = propagation(Matching(), variables, batch, loss=losses.mean_squared_error)
    assert measured.names == ("dense", "dense:2", "dense:2/activation", "head")
    dense = nn.Dense(5).apply({"params": variables["params"]["dense"]}, right)
    np.testing.assert_allclose(measured.stddev[1], jnp.std(dense), rtol=ROUNDING)
    with pytest.raises(ValueError, match=r"\(8, 4\) and \(7, 4\)"):
        propagation(
            Matching(), variables, batch | {"inputs": (left, right[:7])},
            loss=losses.mean_squared_error,
        )  # fmt: skip


class Mapped(nn.Module):
    """Flax's own batch norm, built for pmap; and a sown value."""

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(6, name="dense")(x)
        x = nn.BatchNorm(use_running_average=not train, axis_name="devices", name="norm")(x)
        self.sow("losses", "size", jnp.sum(x**2))
        return nn.Dense(1, name="head")(nn.relu(x))


def test_a_norm_over_a_mapped_axis_and_a_sown_loss():
    batch = {"inputs": normal(8, 4), "targets": normal(8, 1)}
    variables = init(Mapped(), batch["inputs"], train=False)
    variables = {name: variables[name] for name in ("params", "batch_stats")}
    measured = propagation(Mapped(), variables, batch, loss=losses.mean_squared_error)
    assert measured.names == ("dense", "norm", "norm/activation", "head")
    # epsilon is 1e-5, beside a variance of about 1.
    np.testing.assert_allclose(measured.stddev[1], 1.0, atol=1e-4)


class Transformer(nn.Module):
    """Embedding, learned and fixed positions, a mask from booleans, attention, a scaled branch."""

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(11, 8, name="embed")(ids)
        table = jnp.sin(jnp.arange(ids.shape[1])[:, None] / 10.0 ** jnp.arange(8))
        table = nn.LayerNorm(use_bias=False, use_scale=False, name="fixed")(table)
        x = x + table + self.param("positions", nn.initializers.normal(0.1), (ids.shape[1], 8))
        mask = nn.make_causal_mask(ids)
        y = nn.MultiHeadDotProductAttention(2, name="attention")(x, mask=mask)
        x = x + y * self.param("gamma", nn.initializers.ones, (8,))
        return nn.Dense(11, name="head")(x.mean(1))


def test_only_what_depends_on_a_parameter_is_a_signal():
    ids = jax.random.randint(jax.random.key(0), (8, 6), 0, 11)
    batch = {"inputs": ids, "targets": ids[:, 0]}
    variables = init(Transformer(), ids)
    measured = propagation(Transformer(), variables, batch, loss=losses.cross_entropy)
    assert measured.names == (
        "embed",
        "positions",
        "attention/query",
        "attention/key",
        "attention/value",
        "attention/weights",
        "attention/value/activation",
        "attention/out",
        "gamma",
        "head",
    )
    sizes = summary(Transformer(), ids)
    assert sum(sizes.parameters) == sizes.total_parameters
    named = dict(zip(sizes.names, sizes.parameters, strict=True))
    assert (named["positions"], named["gamma"]) == (6 * 8, 8)
    row = measured.names.index("gamma")
    assert measured.kinds[row] == "parameters"
    np.testing.assert_allclose(measured.weight_norm[row], np.sqrt(8), rtol=ROUNDING)


class Calls(nn.Module):
    """A module that applies another by hand, and parameters in boxes."""

    @nn.compact
    def __call__(self, x):
        inner = nn.Dense(5)
        params = self.param("inner", lambda key: inner.init(key, x)["params"])
        x = inner.apply({"params": params}, x)
        boxed = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
        return nn.Dense(2, kernel_init=boxed, name="boxed")(nn.tanh(x))


def test_modules_called_by_apply_and_boxed_parameters():
    batch = {"inputs": normal(8, 4), "targets": normal(8, 2)}
    variables = init(Calls(), batch["inputs"])
    measured = propagation(Calls(), variables, batch, loss=losses.mean_squared_error)
    assert measured.names == ("inner", "inner/activation", "boxed")
    params = nn.meta.unbox(variables["params"])
    for row, name in ((0, "inner"), (2, "boxed")):
        norm = jnp.linalg.norm(params[name]["kernel"])
        np.testing.assert_allclose(measured.weight_norm[row], norm, rtol=ROUNDING)
    sizes = summary(Calls(), batch["inputs"])
    assert sum(sizes.parameters) == sizes.total_parameters


class Chooses(nn.Module):
    """A branch, whose modules nobody can look into."""

    def setup(self):
        self.first, self.last = nn.Dense(4), nn.Dense(1)
        self.left, self.right = nn.Dense(4), nn.Dense(4)

    def __call__(self, x):
        x = self.first(x)
        if self.is_initializing():
            self.left(x), self.right(x)
        x = nn.cond(jnp.sum(x) > 0, lambda m, x: m.left(x), lambda m, x: m.right(x), self, x)
        return self.last(x)


def test_what_cannot_be_looked_at_is_named():
    batch = {"inputs": normal(8, 4), "targets": normal(8, 1)}
    variables = init(Chooses(), batch["inputs"])
    with pytest.warns(UserWarning, match=r"(left, right|right, left) run inside a branch"):
        measured = propagation(Chooses(), variables, batch, loss=losses.mean_squared_error)
    assert sorted(measured.hidden) == ["left", "right"]
    assert (measured.names[0], measured.names[-1]) == ("first", "last")
    with pytest.warns(UserWarning, match="no rows"):
        sizes = summary(Chooses(), batch["inputs"])
    assert sum(sizes.parameters) == sizes.total_parameters


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell])
def test_the_parameters_of_cells_are_counted(cell):
    class Reads(nn.Module):
        @nn.compact
        def __call__(self, ids):
            return nn.Dense(2, name="head")(nn.RNN(cell(5))(nn.Embed(7, 3)(ids))[:, -1])

    ids = jax.random.randint(jax.random.key(0), (4, 6), 0, 7)
    batch = {"inputs": ids, "targets": ids[:, 0] % 2}
    measured = propagation(Reads(), init(Reads(), ids), batch, loss=losses.cross_entropy)
    assert np.all(np.isfinite(measured.stddev))
    sizes = summary(Reads(), ids)
    assert sum(sizes.parameters) == sizes.total_parameters


def test_a_unit_of_attention_is_a_feature_of_one_head():
    class Attends(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.MultiHeadDotProductAttention(2, name="attention")(x).mean(1))

    batch = {"inputs": normal(8, 6, 4), "targets": normal(8, 1)}
    variables = init(Attends(), batch["inputs"])
    value = variables["params"]["attention"]["value"]
    # One of 2 heads x 2 features; the same feature of the other head lives.
    value["kernel"] = value["kernel"].at[:, 1, 0].set(0.0)
    measured = propagation(Attends(), variables, batch, loss=losses.mean_squared_error)
    dead = dict(zip(measured.names, measured.dead_fraction, strict=True))
    assert dead["attention/value"] == dead["attention/value/activation"] == 0.25
    assert dead["attention/query"] == 0


def test_values_behind_a_barrier_stay_apart():
    class Barred(nn.Module):
        @nn.compact
        def __call__(self, x):
            left, right = nn.Dense(3, name="left")(x), nn.Dense(3, name="right")(x)
            left, right = jax.lax.optimization_barrier((left, nn.tanh(right)))
            return nn.Dense(1, name="a")(left) + nn.Dense(1, name="b")(right)

    inputs = normal(8, 4)
    drawn = graph(Barred(), inputs)
    assert {edge for edge in drawn.edges if edge[1] in ("a", "b")} == {
        ("left", "a"),
        ("right/activation", "b"),
    }


def test_the_notice_of_what_is_hidden_points_at_the_caller():
    class Branching(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="seen")(x)
            inside = nn.Dense(4, name="hidden")
            return nn.cond(x.sum() > 0, lambda m, x: m(x), lambda m, x: 2 * m(x), inside, x)

    variables = Branching().init(jax.random.key(0), normal(4, 4))
    batch = {"inputs": normal(4, 4), "targets": normal(4, 4)}
    with pytest.warns(UserWarning, match="the modules hidden run inside a branch") as caught:
        propagation(Branching(), variables, batch, loss=losses.mean_squared_error)
    assert {each.filename for each in caught if "hidden" in str(each.message)} == {__file__}


def test_a_parameter_read_early_belongs_to_the_value_that_uses_it():
    class Early(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.param("w", nn.initializers.normal(), (6, 3)) / 10
            return nn.tanh(nn.Dense(6, name="first")(x)) @ w

    variables = init(Early(), normal(8, 4))
    sizes = summary(Early(), normal(8, 4))
    assert dict(zip(sizes.names, sizes.parameters, strict=True)) == {"first": 30, "w": 18}
    batch = {"inputs": normal(8, 4), "targets": normal(8, 3)}
    measured = propagation(Early(), variables, batch, loss=losses.mean_squared_error)
    params = variables["params"]
    np.testing.assert_allclose(
        measured.weight_norm,
        [jnp.linalg.norm(params["first"]["kernel"]), jnp.linalg.norm(params["w"])],
        ROUNDING,
    )

"""Models of other libraries: the same network in each has the same rows, and trains the same."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxdl import data, losses, optimizers, training
from jaxdl.calling import adapt
from jaxdl.diagnostics import advise, graph, histograms, propagation, summary

WIDTH, OUT, ROUNDING = 6, 3, 2e-6
KEYS = jax.random.split(jax.random.key(0), 9)
LOSS = losses.mean_squared_error
BATCH = {
    "inputs": jax.random.normal(KEYS[0], (8, 4)),
    "targets": jax.random.normal(KEYS[1], (8, OUT)),
}
W1, W2, W3 = (
    jax.random.normal(key, shape) / 2
    for key, shape in zip(KEYS[2:], [(4, WIDTH), (WIDTH, WIDTH), (WIDTH, OUT)], strict=False)
)
B = jnp.linspace(-0.1, 0.1, WIDTH)
# Two layers, a norm, a residual connection and a head, in five libraries.
NAMES = ("first", "first/activation", "norm", "second", "second/activation", "head")


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(WIDTH, name="first")(x))
        n = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm")(h)
        return nn.Dense(OUT, name="head")(h + nn.Dense(WIDTH, name="second")(n))


PARAMS = {
    "first": {"kernel": W1, "bias": B},
    "norm": {"scale": 1 + B, "bias": -B},
    "second": {"kernel": W2, "bias": 2 * B},
    "head": {"kernel": W3, "bias": jnp.zeros(OUT)},
}


def function(params, x):
    h = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    centred = h - h.mean(-1, keepdims=True)
    deviation = jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
    n = centred / deviation * params["norm"]["scale"] + params["norm"]["bias"]
    n = n @ params["second"]["kernel"] + params["second"]["bias"]
    return (h + n) @ params["head"]["kernel"] + params["head"]["bias"]


class Pair:
    """As `haiku.transform` gives."""

    @staticmethod
    def init(rng, x):
        del rng, x
        return PARAMS

    @staticmethod
    def apply(params, rng, x):
        del rng
        return function(params, x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.second = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, OUT, rngs=rngs)

    def __call__(self, x):
        h = nnx.tanh(self.first(x))
        return self.head(h + self.second(self.norm(h)))


class EquinoxNet(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    second: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key):
        self.first = eqx.nn.Linear(4, WIDTH, key=key)
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.second = eqx.nn.Linear(WIDTH, WIDTH, key=key)
        self.head = eqx.nn.Linear(WIDTH, OUT, key=key)

    def __call__(self, x):
        h = jnp.tanh(self.first(x))
        return self.head(h + self.second(self.norm(h)))


def nnx_net():
    model = NnxNet(nnx.Rngs(0))
    for name, own in PARAMS.items():
        for part, value in own.items():
            getattr(getattr(model, name), part)[...] = value
    return model


def equinox_net():
    def leaves(model):
        layers = [getattr(model, name) for name in PARAMS]
        return [leaf for layer in layers for leaf in (layer.weight, layer.bias)]

    given = [tuple(own.values()) for own in PARAMS.values()]
    values = [leaf.T if leaf.ndim == 2 else leaf for own in given for leaf in own]
    return eqx.tree_at(leaves, EquinoxNet(jax.random.key(0)), values)


FOREIGN = {
    "function": lambda: (function, PARAMS),
    "pair": lambda: (Pair(), PARAMS),
    "nnx": lambda: (nnx_net(), None),
    "equinox": lambda: (equinox_net(), None),
}
each_library = pytest.mark.parametrize("library", FOREIGN)


@each_library
def test_the_rows_of_one_network(library):
    model, variables = FOREIGN[library]()
    expected = propagation(
        LinenNet(), {"params": PARAMS}, BATCH, loss=LOSS, optimizer=optimizers.sgd(0.1)
    )
    measured = propagation(model, variables, BATCH, loss=LOSS, optimizer=optimizers.sgd(0.1))
    assert measured.names == expected.names == NAMES
    assert measured.feeds == expected.feeds
    assert measured.shapes == expected.shapes
    for name in (
        "mean", "stddev", "dead_fraction", "saturated_fraction", "gradient_mean",
        "gradient_stddev", "weight_norm", "weight_gradient_norm", "update_ratio", "loss",
    ):  # fmt: skip
        np.testing.assert_allclose(
            getattr(measured, name), getattr(expected, name), ROUNDING, ROUNDING, err_msg=name
        )
    found, wanted = ([(a.problem, a.row) for a in advise(m)] for m in (measured, expected))
    assert found == wanted


@each_library
def test_the_other_instruments(library):
    model, variables = FOREIGN[library]()
    x = BATCH["inputs"]
    rows = summary(model, x, variables=variables)
    assert rows.names == NAMES
    assert rows.parameters == summary(LinenNet(), x).parameters
    assert sum(rows.parameters) == rows.total_parameters
    edges = {(a, b) for a, b in graph(model, x, variables=variables).edges}
    assert ("first/activation", "second/activation") in edges
    counted = histograms(model, variables, BATCH, loss=LOSS, bins=5)
    assert counted.names == NAMES
    sizes = [WIDTH * 8] * 5 + [OUT * 8]
    np.testing.assert_array_equal(counted.activations.counts.sum(1), sizes)


DATASET = data.Dataset(
    "line",
    data.Arrays(*(np.asarray(BATCH[name]) for name in ("inputs", "targets"))),
    None,
    None,
    (),
)


@each_library
def test_trains_as_the_linen_network(library):
    model, _ = FOREIGN[library]()
    start = adapt(model, (lambda _: PARAMS) if library == "function" else None)
    task = training.Task(start, LOSS)
    settings = {"epochs": 3, "batch_size": 4, "key": jax.random.key(1), "progress": False}
    result = training.fit(task, DATASET, optimizers.sgd(0.05), **settings)
    state = training.init_state(
        jax.random.key(1), LinenNet(), optimizers.sgd(0.05), BATCH["inputs"], PARAMS
    )
    expected = training.fit(
        LinenNet(), DATASET, optimizers.sgd(0.05), loss=LOSS, state=state, **settings
    )
    np.testing.assert_allclose(result.history.steps["loss"], expected.history.steps["loss"], 1e-5)
    after = propagation(task, result.state.variables, BATCH)
    twin = propagation(LinenNet(), expected.state.variables, BATCH, loss=LOSS)
    np.testing.assert_allclose(after.weight_norm, twin.weight_norm, 1e-5)
    trained = start.module(result.state.variables)
    outputs = LinenNet().apply(expected.state.variables, BATCH["inputs"])
    called = {
        "function": lambda: function(trained, BATCH["inputs"]),
        "pair": lambda: function(trained, BATCH["inputs"]),
        "nnx": lambda: trained(BATCH["inputs"]),
        "equinox": lambda: jax.vmap(trained)(BATCH["inputs"]),
    }[library]()
    np.testing.assert_allclose(called, outputs, 1e-5, 1e-5)
    # A trained module may be handed over instead of its variables.
    forms = [trained, nnx.state(trained)] if library == "nnx" else [trained]
    for form in forms:
        again = propagation(model, form, BATCH, loss=LOSS)
        np.testing.assert_array_equal(again.stddev, after.stddev)


class Noisy(nnx.Module):
    """Dropout and running statistics."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, OUT, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = self.drop(nnx.relu(self.norm(layer(x))))
        return self.head(x)


class NoisyEquinox(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key):
        self.first = eqx.nn.Linear(4, 4, key=key)
        self.norm = eqx.nn.BatchNorm(4, axis_name="examples", momentum=0.5, mode="batch")
        self.drop = eqx.nn.Dropout(0.5)
        self.head = eqx.nn.Linear(4, OUT, key=key)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.first(x), state)
        return self.head(self.drop(jax.nn.relu(x), key=key)), state


class NoisyPair:
    """As `haiku.transform_with_state` gives, of a function with the mode `is_training`."""

    @staticmethod
    def init(rng, x, is_training):
        del is_training
        return {"w": jax.random.normal(rng, (x.shape[1], OUT))}, {"mean": jnp.zeros(x.shape[1])}

    @staticmethod
    def apply(params, state, rng, x, is_training):
        if is_training:
            state = {"mean": (state["mean"] + x.mean(0)) / 2}
            x = x * jax.random.bernoulli(rng, 0.5, x.shape) * 2
        return (x - state["mean"]) @ params["w"], state


def noisy_function(params, x, *, rng=None, train):
    kept = jax.random.bernoulli(rng, 0.5, x.shape) * 2 if train else 1
    return kept * x @ params["w"]


def draw_matrix(key):
    return {"w": jax.random.normal(key, (4, OUT))}


NOISY = {
    "nnx": lambda: (Noisy(nnx.Rngs(0)), lambda key: Noisy(nnx.Rngs(key))),
    "equinox": lambda: (
        eqx.nn.make_with_state(NoisyEquinox)(jax.random.key(0)),
        eqx.nn.make_with_state(NoisyEquinox),
    ),
    "pair": lambda: (NoisyPair(), None),
    "function": lambda: (noisy_function, draw_matrix),
}  # fmt: skip
each_noisy = pytest.mark.parametrize("library", NOISY)


@each_noisy
def test_one_key_one_run_and_a_sweep_draws_its_own_start(library):
    task = training.Task(adapt(*NOISY[library]()), LOSS)
    key, optimizer = jax.random.key(3), optimizers.sgd(0.05)
    result = training.fit(task, DATASET, optimizer, epochs=2, batch_size=4, key=key, progress=False)
    run = training.make_run(task, optimizer, batch_size=4)
    state, _ = run(key, DATASET, training.orders(key, 2, 8))
    for one, other in zip(
        jax.tree.leaves(result.state.variables), jax.tree.leaves(state.variables), strict=True
    ):
        np.testing.assert_allclose(one, other, 1e-6, 1e-6)

    def member(key, orders):
        start = task.init(jax.random.split(key)[0], BATCH["inputs"])
        end = training.make_run(task, optimizer, batch_size=4)(key, DATASET, orders)[0]
        return {
            name: optax.tree.norm(params)
            for name, params in (("start", start["params"]), ("end", end.params))
        }

    norms = training.sweep(
        member, seeds=[3, 4], by_seed={"orders": lambda key: training.orders(key, 2, 8)}
    )
    np.testing.assert_allclose(norms["end"][0], optax.tree.norm(state.params), 1e-5)
    assert norms["start"][0] != norms["start"][1]


@each_noisy
def test_training_and_evaluation_differ_and_what_moves_moves(library):
    model = adapt(*NOISY[library]())
    task = training.Task(model, LOSS)
    variables = task.init(jax.random.key(0), BATCH["inputs"])
    evaluated, still = task.outputs(variables, BATCH["inputs"], train=False)
    first, moved = task.outputs(variables, BATCH["inputs"], train=True, key=jax.random.key(1))
    again, _ = task.outputs(variables, BATCH["inputs"], train=True, key=jax.random.key(1))
    other, _ = task.outputs(variables, BATCH["inputs"], train=True, key=jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, evaluated)
    assert still == {}
    assert set(moved) == set(variables) - {"params"}
    for name, tree in moved.items():
        assert jax.tree.structure(tree) == jax.tree.structure(variables[name])
        before, after = jax.tree.leaves(variables[name]), jax.tree.leaves(tree)
        assert any(not np.array_equal(*pair) for pair in zip(before, after, strict=True))


def test_equinox_batch_norm_moves_as_its_own_library_moves_it():
    model, state = eqx.nn.make_with_state(NoisyEquinox)(jax.random.key(0))
    task = training.Task(adapt((model, state)), LOSS)
    variables = task.init(jax.random.key(0), BATCH["inputs"])
    _, moved = task.outputs(variables, BATCH["inputs"], train=True, key=jax.random.key(1))
    keys = jax.random.split(jax.random.key(1), 8)
    mapped = jax.vmap(
        lambda x, key: model(x, state, key=key), axis_name="examples", out_axes=(0, None)
    )
    _, expected = mapped(BATCH["inputs"], keys)
    got = task.model.module({**variables, **moved})[1]
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, 1e-6)


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    def fit(epochs, folder):
        model = adapt(NoisyEquinoxStart(), NoisyEquinoxStart.make)
        return training.fit(
            model, DATASET, optimizers.adam(0.01), loss=LOSS, epochs=epochs, batch_size=4,
            key=jax.random.key(5), progress=False, checkpoint_dir=folder,
        )  # fmt: skip

    whole = fit(3, tmp_path / "whole")
    fit(1, tmp_path / "parts")
    resumed = fit(3, tmp_path / "parts")
    for one, other in zip(
        jax.tree.leaves(whole.state.variables),
        jax.tree.leaves(resumed.state.variables),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


class NoisyEquinoxStart(eqx.Module):
    layer: eqx.nn.Linear
    drop: eqx.nn.Dropout

    def __init__(self, key=None):
        self.layer = eqx.nn.Linear(4, OUT, key=jax.random.key(0) if key is None else key)
        self.drop = eqx.nn.Dropout(0.3)

    @classmethod
    def make(cls, key):
        return cls(key)

    def __call__(self, x, *, key=None):
        return self.layer(self.drop(x, key=key))


def test_streams_of_scanned_nnx_layers_have_their_own_masks():
    class Layers(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=3)
            @nnx.vmap(in_axes=0, out_axes=0)
            def make(rngs):
                return nnx.Dropout(0.5, rngs=rngs)

            self.scale = nnx.Param(jnp.ones(64))
            self.drops = make(rngs)

        def __call__(self, x):
            @nnx.scan(in_axes=(0, None), out_axes=0)
            def run(drop, x):
                return drop(x)

            return run(self.drops, x * self.scale[...])

    task = training.Task(Layers(nnx.Rngs(0)), LOSS)
    x = jnp.ones((2, 64))
    masks, _ = task.outputs(task.init(jax.random.key(0), x), x, train=True, key=jax.random.key(1))
    assert len({np.asarray(mask).tobytes() for mask in masks}) == 3


def test_a_key_is_asked_for_only_where_one_is_used():
    model = Noisy(nnx.Rngs(0))
    with pytest.raises(ValueError, match="needs a key, got key=None with train=True"):
        propagation(model, None, BATCH, loss=LOSS)
    assert propagation(model, None, BATCH, loss=LOSS, train=False).names
    # Its carry has a stream, of which nothing depends.
    lstm = nnx.RNN(nnx.LSTMCell(4, OUT, rngs=nnx.Rngs(0)))
    batch = {"inputs": jnp.ones((4, 5, 4)), "targets": jnp.ones((4, 5, OUT))}
    assert "cell/ii" in propagation(lstm, None, batch, loss=LOSS).names


def test_classes_are_as_before():
    before = [eqx.nn.Linear.__dict__["__call__"], NnxNet.__dict__["__call__"]]
    for model in (equinox_net(), nnx_net()):
        propagation(model, None, BATCH, loss=LOSS)
    assert [eqx.nn.Linear.__dict__["__call__"], NnxNet.__dict__["__call__"]] == before
    assert "__call__" not in Tied.__dict__
    propagation(Tied(nnx.Rngs(0)), None, BATCH, loss=LOSS)
    assert "__call__" not in Tied.__dict__


class Tied(NnxNet):
    """Inherits its call."""


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: adapt(EquinoxNet), TypeError, "build it"),
        (lambda: adapt(nnx.Linear), TypeError, "build it"),
        (lambda: adapt(3), TypeError, "got 3"),
        (lambda: adapt(jax.vmap(equinox_net())), TypeError, "EquinoxNet in another function"),
        (lambda: propagation(nnx_net(), BATCH, BATCH, loss=LOSS), TypeError, "like NnxNet, or a"),
        (lambda: propagation(equinox_net(), 3.0, BATCH, loss=LOSS), TypeError, "got float"),
        (
            lambda: propagation(
                equinox_net(), eqx.nn.MLP(4, 3, 8, 1, key=KEYS[0]), BATCH, loss=LOSS
            ),
            ValueError,
            "params must fit the model",
        ),
        (lambda: adapt(LinenNet(), draw_matrix), ValueError, "leave it out"),
        (lambda: adapt(Pair(), draw_matrix), ValueError, "leave it out"),
        (lambda: adapt(function, mapped=False), ValueError, "got mapped=False with"),
        (lambda: propagation(function, None, BATCH, loss=LOSS), ValueError, "holds none"),
        (lambda: summary(function, BATCH["inputs"]), ValueError, "must say where it starts"),
        (lambda: propagation(LinenNet(), None, BATCH, loss=LOSS), TypeError, "model.init returned"),
        (
            lambda: training.fit(
                function, DATASET, optimizers.sgd(0.1), loss=LOSS, epochs=1, batch_size=4,
                key=jax.random.key(0),
            ),
            ValueError,
            "must say where it starts",
        ),
        (
            lambda: training.fit(
                Noisy(nnx.Rngs(0)), DATASET, optimizers.sgd(0.1), loss=LOSS, epochs=1,
                batch_size=4, key=jax.random.key(0), parallel="pmap",
            ),
            ValueError,
            "batch_stats of a model that is not Flax Linen's must see the whole batch",
        ),
        (
            lambda: training.Task(noisy_function, LOSS, mode="phase"),
            ValueError,
            "mode must name an argument or a field of noisy_function",
        ),
    ],
)  # fmt: skip
def test_refuses(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_tied_head_has_a_row_of_its_own():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            embed = nn.Embed(7, 4, name="embed")
            return embed.attend(nn.Dense(4, name="middle")(embed(tokens)))

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.embed, self.middle = nnx.Embed(7, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)

        def __call__(self, tokens):
            return self.embed.attend(self.middle(self.embed(tokens)))

    tokens = jax.random.randint(jax.random.key(0), (8,), 0, 7)
    for model in (Linen(), Nnx(nnx.Rngs(0))):
        found = summary(model, tokens)
        assert found.names == ("embed", "middle", "embed:2")
        assert found.parameters == (28, 20, 0)


class TakesBatches(eqx.Module):
    """As some write Equinox: the batch inside, and a key for all of it."""

    layer: eqx.nn.Linear
    act: object = jnp.tanh

    def __call__(self, x, *, key=None):
        h = self.act(jax.vmap(self.layer)(x))
        return h if key is None else h * jax.random.bernoulli(key, 0.5, h.shape)


def test_an_equinox_module_that_takes_a_batch():
    module = TakesBatches(eqx.nn.Linear(4, OUT, key=jax.random.key(0)))
    model = adapt(module, mapped=False)
    measured = propagation(model, None, BATCH, loss=LOSS, train=False)
    assert measured.names == ("layer", "layer/activation")
    value = np.asarray(BATCH["inputs"] @ module.layer.weight.T + module.layer.bias)
    np.testing.assert_allclose(measured.stddev[0], value.std(), 1e-5)
    dropped = propagation(model, None, BATCH, loss=LOSS, key=jax.random.key(1))
    kept = jax.random.bernoulli(jax.random.key(1), 0.5, value.shape)
    np.testing.assert_allclose(dropped.stddev[1], (np.tanh(value) * kept).std(), 1e-5)


def test_the_apply_of_a_linen_module_is_the_module():
    model = LinenNet()
    assert adapt(model.apply) == model
    expected = propagation(model, {"params": PARAMS}, BATCH, loss=LOSS)
    measured = propagation(model.apply, {"params": PARAMS}, BATCH, loss=LOSS)
    np.testing.assert_array_equal(measured.stddev, expected.stddev)


def test_a_jitted_function_and_a_partial_are_functions():
    for model in (jax.jit(function), functools.partial(function), lambda p, x: function(p, x)):
        assert summary(model, BATCH["inputs"], variables=PARAMS).names == NAMES


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"step": jnp.zeros((), jnp.int32)}, "got step: int32; keep what is not learned"),
        ({"act": jnp.tanh}, "must be arrays of floats, got act: "),
        ({"rate": 0.1}, "got rate: 0.1"),
    ],
)
def test_parameters_that_are_no_floats_are_refused(extra, text):
    with pytest.raises(TypeError, match=text):
        propagation(function, {**PARAMS, **extra}, BATCH, loss=LOSS)


def refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_a_module_lists_what_the_variables_lack(library):
    model, _ = FOREIGN[library]()
    start = adapt(model)
    variables = start.variables(None)
    (kept, lost), *_ = [
        (name, rest) for name, rest in variables["params"].items() if isinstance(rest, dict)
    ]
    lacking = {**variables, "params": {**variables["params"], kept: dict(list(lost.items())[1:])}}
    words = rf"params must fit the model and its inputs: \['{kept}'\].* got nothing"
    refused(lambda: start.module(lacking), ValueError, words)
    refused(lambda: start.module(variables["params"]), TypeError, "a dictionary with 'params', got")
    refused(lambda: start.module(model), TypeError, "got .*Net; pass state.variables")


def test_a_collection_that_is_missing_is_listed():
    class Normed(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.norm(x)

    start = adapt(Normed())
    params = {"params": start.variables(None)["params"]}
    words = r"batch_stats must fit the model and its inputs: \['norm'\].* got nothing"
    refused(lambda: start.module(params), ValueError, words)
    refused(lambda: propagation(start, params, BATCH, loss=LOSS), ValueError, words)


@pytest.mark.parametrize(("package", "name"), [("torch", "PyTorch"), ("keras", "Keras")])
def test_a_module_of_pytorch_or_keras_is_told_what_to_do(package, name):
    base = type("Module", (), {"__module__": f"{package}.nn", "__call__": lambda self, x: x})
    mine = type("Mine", (base,), {"apply": None})
    words = rf"Flax or Equinox, or a function, got a module of {name}, Mine; write it in Flax"
    for model in (mine(), mine):
        settings = {"loss": LOSS, "epochs": 1, "batch_size": 4, "key": jax.random.key(0)}
        with pytest.raises(TypeError, match=words) as caught:
            training.fit(model, DATASET, optimizers.sgd(0.1), **settings)
        assert ("interop.from_state_dict" in str(caught.value)) == (package == "torch")

"""An optimizer for each layer, and frozen layers: nothing of theirs moves, is held or computed."""

import functools
import re

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxdl import losses, models, optimizers, training
from jaxdl.optimizers import by_layer, freeze

PARAMS = {
    "encoder": {"block_0": {"kernel": jnp.full((2, 3), 0.5), "bias": jnp.ones(3)}},
    "head": {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])},
}
GRADIENTS = jax.tree.map(lambda leaf: jnp.full_like(leaf, 100.0), PARAMS) | {
    "head": {"kernel": jnp.array([3.0, 0.0]), "bias": jnp.array([4.0])}
}
MLP, X = models.MLP([7, 6, 2]), jnp.ones((8, 5))


def after(optimizer, steps=3, params=PARAMS, gradients=GRADIENTS):
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_each_group_has_its_rate_and_the_first_pattern_counts():
    rates = {"*/bias": 0.0, "encoder/block_*": 0.25, "head": 0.5}
    optimizer = by_layer({name: optimizers.sgd(rate) for name, rate in rates.items()})
    params, _ = after(optimizer, steps=1)
    # All are dyadic, so the products and sums are exact.
    expected = {
        "encoder": {"block_0": {"kernel": jnp.full((2, 3), 0.5 - 25), "bias": jnp.ones(3)}},
        "head": {"kernel": jnp.array([1 - 1.5, -2.0]), "bias": jnp.array([0.5])},
    }
    chex.assert_trees_all_equal(params, expected)


def test_a_pattern_ends_at_a_part_of_the_name():
    params = {"block_1": jnp.ones(()), "block_10": jnp.ones(())}
    moved, _ = after(freeze(optimizers.sgd(1.0), "block_1"), 1, params, params)
    assert moved == {"block_1": 1.0, "block_10": 0.0}


def test_leaves_of_lists_have_their_place_as_name():
    params = [{"w": jnp.ones(())}, {"w": jnp.ones(())}]
    moved, _ = after(freeze(optimizers.sgd(1.0), "0"), 1, params, params)
    assert moved == [{"w": 1.0}, {"w": 0.0}]


@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.adamw(0.1, weight_decay=0.5, mask=None),
        optimizers.lion(0.1, weight_decay=0.5, mask=None),
        optimizers.decoupled_decay(optimizers.momentum(0.1), 0.5, mask=None),
        optax.chain(optimizers.l2(0.5, mask=None), optimizers.sgd(0.1)),
        optax.adamw(0.1, weight_decay=0.5),
    ],
    ids=["adamw", "lion", "decoupled", "l2", "optax"],
)
def test_frozen_parameters_keep_their_bits_whatever_decays(optimizer):
    params, state = after(freeze(optimizer, "encoder"))
    chex.assert_trees_all_equal(params["encoder"], PARAMS["encoder"])
    alone, _ = after(optimizer, params=PARAMS["head"], gradients=GRADIENTS["head"])
    chex.assert_trees_all_equal(params["head"], alone)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert shapes <= {(), (2,), (1,)}  # a moment of the encoder would be (2, 3) or (3,)


def test_the_state_of_a_frozen_layer_takes_no_memory():
    def arrays(optimizer):
        return sum(leaf.size for leaf in jax.tree.leaves(optimizer.init(PARAMS)) if leaf.ndim)

    assert arrays(optimizers.adam(0.1)) == 2 * 12
    assert arrays(freeze(optimizers.adam(0.1), "encoder")) == 2 * 3
    assert arrays(freeze(optimizers.accumulate(optimizers.adam(0.1), 2), "encoder")) == 3 * 3
    assert arrays(by_layer({"head": optax.chain(optimizers.sgd(1.0), optimizers.ema()),
                            "*": None})) == 3  # fmt: skip


def test_clipping_inside_sees_what_is_trained_and_outside_everything():
    clipped = optax.chain(optimizers.clip_by_global_norm(1.0), optimizers.sgd(1.0))
    inside, _ = after(freeze(clipped, "encoder"), steps=1)
    # The head's gradient (3, 0, 4) has the norm 5.
    np.testing.assert_allclose(inside["head"]["kernel"], [1 - 0.6, -2], rtol=1e-6)
    np.testing.assert_allclose(inside["head"]["bias"], [0.5 - 0.8], rtol=1e-6)
    outer = optax.chain(optimizers.clip_by_global_norm(1.0), freeze(optimizers.sgd(1.0), "encoder"))
    norm = np.sqrt(9 * 100.0**2 + 25)
    np.testing.assert_allclose(
        after(outer, steps=1)[0]["head"]["bias"], [0.5 - 4 / norm], rtol=1e-6
    )


def test_one_norm_for_several_groups():
    groups = by_layer({"*/bias": optimizers.sgd(2.0), "head": optimizers.sgd(1.0)})
    clipped = optax.chain(optimizers.clip_by_global_norm(1.0), groups)
    params, _ = after(freeze(clipped, "encoder"), steps=1)
    np.testing.assert_allclose(params["head"]["bias"], [0.5 - 2 * 0.8], rtol=1e-6)


def test_a_metric_reaches_the_plateau_of_every_group():
    optimizer = by_layer(
        {
            name: optimizers.adam(optimizers.plateau(rate, patience=0, factor=0.5))
            for name, rate in {"head": 1.0, "encoder": 0.25}.items()
        }
    )
    state = optimizer.init(PARAMS)
    for loss in (1.0, 1.0):
        state = optimizers.report_metric(state, loss)
    rates = [optimizers.current_learning_rate(group).item() for group in state.groups]
    assert rates == [0.5, 0.125]
    with pytest.raises(ValueError, match=r"holds 2; pass .* e\.g\. opt_state\.groups\[0\]"):
        optimizers.current_learning_rate(state)


def test_a_schedule_of_its_own():
    schedules = {"head": lambda step: 1.0 / (1 + step), "encoder": lambda step: 0.0 * step}
    params, _ = after(by_layer({name: optimizers.sgd(s) for name, s in schedules.items()}), 2)
    assert params["head"]["bias"].tolist() == [0.5 - 4 - 2]
    chex.assert_trees_all_equal(params["encoder"], PARAMS["encoder"])


@pytest.mark.parametrize("inside", [True, False])
def test_an_average_evaluates_frozen_parameters_as_they_are(inside):
    def average(optimizer):
        return optax.chain(optimizer, optimizers.ema(0.5))

    sgd = optimizers.sgd(1.0)
    optimizer = freeze(average(sgd), "encoder") if inside else average(freeze(sgd, "encoder"))
    params, state = after(optimizer, steps=2)
    evaluated = optimizers.evaluated_parameters(state, params)
    chex.assert_trees_all_equal(evaluated["encoder"], PARAMS["encoder"])
    # theta_1 = -3.5 and theta_2 = -7.5, of which the first weighs as the second.
    assert evaluated["head"]["bias"].tolist() == [-5.5]


def test_gradients_are_accumulated_inside():
    optimizer = freeze(optimizers.accumulate(optimizers.sgd(1.0), 2), "encoder")
    assert after(optimizer, steps=1)[0]["head"]["bias"].tolist() == [0.5]
    params, _ = after(optimizer, steps=2)
    assert params["head"]["bias"].tolist() == [0.5 - 4]
    chex.assert_trees_all_equal(params["encoder"], PARAMS["encoder"])


def test_moments_are_float32_for_parameters_of_half_precision():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    params, state = after(freeze(optimizers.adam(0.1), "encoder"), 1, half, half)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim} == {jnp.dtype("float32")}


@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_layers_of_other_libraries_have_names(library):
    if library == "nnx":
        rngs = nnx.Rngs(0)
        model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs))
    else:
        model = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
    x = jnp.ones((3, 4))
    optimizer = freeze(optimizers.sgd(0.1), "layers/0")
    state = training.init_state(jax.random.key(0), model, optimizer, x)
    step = training.make_train_step(model, optimizer, losses.mean_squared_error)
    new, _ = step(state, {"inputs": x, "targets": jnp.ones((3, 2))})
    moved = [
        not np.array_equal(old, changed)
        for old, changed in zip(*map(jax.tree.leaves, (state.params, new.params)), strict=True)
    ]
    assert moved == [False, False, True, True]


def test_sharpness_is_that_of_the_trained_layers():
    def loss(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    gradient = jax.grad(loss)
    optimizer = freeze(optimizers.sam(optimizers.sgd(1.0), radius=0.5), "encoder")
    updates, _ = optimizer.update(
        gradient(PARAMS), optimizer.init(PARAMS), PARAMS, grad_fn=lambda at, i: gradient(at)
    )
    # The gradient 2 theta at theta (1 + r / |theta|), with the norm of the head alone.
    norm = np.sqrt(1 + 4 + 0.25)
    np.testing.assert_allclose(
        updates["head"]["kernel"], -2 * (1 + 0.5 / norm) * np.array([1.0, -2.0]), rtol=1e-6
    )
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates["encoder"]))


def test_a_line_search_moves_the_trained_layers_alone():
    def loss(params, **_):
        return sum(jnp.sum((leaf - 3) ** 2) for leaf in jax.tree.leaves(params))

    optimizer = freeze(optax.lbfgs(), "encoder")
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(4):
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(
            gradients, state, params, value=value, grad=gradients, value_fn=loss
        )
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["head"]["kernel"], [3, 3], rtol=1e-5)  # a quadratic
    chex.assert_trees_all_equal(params["encoder"], PARAMS["encoder"])


def products(function, *arguments):
    """The matrix products in the compiled program."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return len(re.findall(r" = \S+ (?:dot|custom-call)\(", text))


def products_of_step(optimizer, model=MLP, inputs=X, loss=losses.mean_squared_error, scanned=False):
    batch = {"inputs": inputs, "targets": inputs if model is not MLP else jnp.ones((8, 2))}
    step = training.make_train_step(model, optimizer, loss)
    state = training.init_state(jax.random.key(0), model, optimizer, inputs)

    def steps(fields, batch):
        start = training.TrainState(**fields)
        if not scanned:
            return vars(step(start, batch)[0])
        return vars(jax.lax.scan(lambda state, _: step(state, batch), start, length=3)[0])

    return products(steps, vars(state), batch)


@pytest.mark.parametrize("scanned", [False, True])
def test_gradients_of_frozen_layers_are_not_computed(scanned):
    sgd, count = optimizers.sgd(0.1), functools.partial(products_of_step, scanned=scanned)
    # Forward three, kernels three, activations two.
    assert count(sgd) == 8
    # Forward three, and the head's kernel.
    assert count(freeze(sgd, "dense_0", "dense_1")) == 4
    # What stands below a trained layer is needed by its gradient.
    assert count(freeze(sgd, "dense_1", "dense_2")) == 3 + 1 + 2


@pytest.mark.parametrize("blocks", ["remat", "scan"])
def test_gradients_of_frozen_blocks_are_not_computed(blocks):
    tokens = jnp.arange(12).reshape(2, 6) % 7
    model = models.Transformer(7, features=8, layers=2, heads=2, blocks=blocks)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, train=False))
    forward = products(lambda given: model.apply(given, tokens, train=True), variables)
    optimizer = freeze(optimizers.sgd(0.1), "embed", "positions", "block*")
    # The head: the gradients of its kernel and of its inputs, which the last norm needs.
    assert products_of_step(optimizer, model, tokens, losses.cross_entropy) == forward + 2


def test_a_clipping_outside_needs_all_gradients():
    frozen = freeze(optimizers.sgd(0.1), "dense_0", "dense_1")
    assert products_of_step(optax.chain(optimizers.clip_by_global_norm(1.0), frozen)) == 8


def test_decay_around_groups_is_refused():
    for inside in (
        freeze(optimizers.adam(0.1), "encoder"),
        optax.chain(by_layer({"*": optimizers.sgd(0.1)})),
    ):
        with pytest.raises(ValueError, match=r"must stand inside by_layer and freeze"):
            optimizers.decoupled_decay(inside, 0.1).init(PARAMS)


SGD = optimizers.sgd(0.1)


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (
            lambda: freeze(SGD, "decoder"),
            ValueError,
            r"'decoder' fits none of encoder/block_0/bias",
        ),
        (lambda: freeze(SGD, "head", "encoder"), ValueError, r"'\*' fits only .* earlier .* move"),
        (lambda: by_layer({"head": SGD}), ValueError, r"encoder/block_0/bias, .* add \"\*\" for"),
        (lambda: by_layer({"*": SGD, "head": None}), ValueError, r"'head' fits only .* move it up"),
        (lambda: by_layer({"*": None}), ValueError, r"at least one group"),
        (lambda: by_layer({}), ValueError, r"at least one group"),
        (lambda: freeze(SGD), ValueError, r"needs the names"),
        (lambda: freeze(SGD, "*"), ValueError, r"leave something to train"),
        (lambda: by_layer(SGD), TypeError, r"a mapping from names to optimizers"),
        (lambda: by_layer({"head": 1e-3, "*": None}), TypeError, r"'head' must have an optimizer"),
        (lambda: by_layer({...: SGD}), TypeError, r"for the rest"),
        (lambda: freeze(optimizers.adam, "head"), TypeError, r"must have an optimizer"),
        (lambda: freeze(SGD, ["head"]), TypeError, r"must be a string"),
    ],
)
def test_refuses(make, kind, text):
    with pytest.raises(kind, match=text):
        make().init(PARAMS)

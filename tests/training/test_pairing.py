"""A loss that broadcasts over the examples is refused; every other loss is taken."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import data, losses, metrics, models, optimizers, training
from jaxdl.training.pairing import check_pairing

FOUR = jnp.array([1.0, 2.0, 3.0, 4.0])
bce, labelled = (
    optax.sigmoid_binary_cross_entropy,
    optax.softmax_cross_entropy_with_integer_labels,
)


def squared(outputs, targets):
    return (outputs - targets) ** 2


def mean_of(function):
    """The mean over all axes but the first, which hides a broadcast."""

    def loss(outputs, targets):
        values = function(outputs, targets)
        return values.mean(range(1, values.ndim))

    return loss


def shaped(shapes, dtype):
    is_shape = {"is_leaf": lambda shape: isinstance(shape, tuple)}
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, dtype), shapes, **is_shape)


# The loss; the shapes of outputs and targets. Each gives 8 (or 6, or 10) values of every pair.
BROADCAST = {
    "optax's BCE": (mean_of(bce), (8, 1), (8,)),
    "a mean of squares": (mean_of(squared), (8, 1), (8,)),
    "the other way round": (mean_of(squared), (8,), (8, 1)),
    "one example": (mean_of(squared), (1, 1), (1,)),
    "in a scalar": (lambda o, t: squared(o, t).mean(), (8, 1), (8,)),
    "compiled": (mean_of(jax.jit(squared)), (8, 1), (8,)),
    "a choice": (lambda o, t: jnp.where(t == 1, o, -o).mean(-1), (8, 1), (8,)),
    "a comparison": (lambda o, t: ((o > 0) == t).mean(-1), (8, 1), (8,)),
    "an axis lost inside": (lambda o, t: mean_of(squared)(o[:, 0], t), (8, 1), (8, 1)),
    "as many classes as examples": (mean_of(squared), (10, 10), (10,)),
    "as many places as examples": (mean_of(squared), (6, 6, 1), (6, 6)),
    "a mask": (
        lambda o, t: mean_of(squared)(o, t["values"]) + (squared(o, t["values"]) * t["mask"])[0],
        (8, 1),
        {"values": (8, 1), "mask": (8,)},
    ),
    "the second of two outputs": (
        lambda o, t: squared(o["b"], t) + mean_of(squared)(o["a"], t),
        {"a": (8, 1), "b": (8,)},
        (8,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32, jnp.uint8, jnp.bfloat16, jnp.bool_])
@pytest.mark.parametrize("case", BROADCAST)
def test_refuses_a_broadcast_over_the_examples(case, dtype):
    loss, outputs, targets = BROADCAST[case]
    if dtype == jnp.bool_:  # JAX subtracts no booleans
        function, loss = loss, lambda o, t: function(o, jax.tree.map(jnp.float32, t))
    with pytest.raises(ValueError, match="loss must pair each output with its own target"):
        check_pairing("loss", loss, shaped(outputs, jnp.float32), shaped(targets, dtype))


def pairs_by_distance(outputs, targets):
    return squared(outputs[:, None], targets[None, :]).sum(-1).min(1)


RIGHT = {
    "labels": (labelled, (8, 4), (8,)),
    "our labels": (losses.cross_entropy, (8, 4), (8,)),
    "as many classes as examples": (labelled, (4, 4), (4,)),
    "our class weights": (
        functools.partial(losses.cross_entropy, class_weights=FOUR), (4, 4), (4,)
    ),
    "ignored labels": (functools.partial(losses.cross_entropy, ignored=-100), (8, 4), (8,)),
    "class weights": (lambda o, t: FOUR[t] * labelled(o, t), (8, 4), (8,)),
    "one-hot": (losses.cross_entropy, (8, 4), (8, 4)),
    "optax's one-hot": (optax.softmax_cross_entropy, (8, 4), (8, 4)),
    "one-hot inside": (
        lambda o, t: -(jax.nn.log_softmax(o) * jax.nn.one_hot(t, 4)).sum(-1), (4, 4), (4,)
    ),
    "a comparison with all classes": (
        lambda o, t: jnp.where(jnp.arange(4) == t[:, None], o, 0).sum(-1), (4, 4), (4,)
    ),
    "an index": (lambda o, t: -jax.nn.log_softmax(o)[jnp.arange(len(t)), t], (8, 4), (8,)),
    "counts of the batch's labels": (
        lambda o, t: ((jnp.bincount(t, length=4) + 1.0) * o).sum(-1), (4, 4), (4,)
    ),
    "a sequence": (mean_of(labelled), (8, 5, 4), (8, 5)),
    "as many places as sequences": (mean_of(labelled), (5, 5, 4), (5, 5)),
    "one output": (losses.mean_squared_error, (8, 1), (8, 1)),
    "one output without its axis": (lambda o, t: squared(o[:, 0], t), (8, 1), (8,)),
    "several outputs": (lambda o, t: (FOUR * squared(o, t)).mean(-1), (8, 4), (8, 4)),
    "quantiles of one target": (mean_of(squared), (8, 3), (8, 1)),
    "a scalar": (lambda o, t: squared(o, t).mean(), (8, 1), (8, 1)),
    "no targets": (lambda o, t: mean_of(squared)(o, 0), (8, 3), (8,)),
    "less the mean target": (lambda o, t: mean_of(squared)(o, t.mean()), (8, 1), (8,)),
    "an image": (mean_of(squared), (8, 5, 5, 1), (8, 5, 5, 1)),
    "a mask of examples": (
        lambda o, t: mean_of(squared)(o, t["values"]) * t["mask"],
        (8, 4), {"values": (8, 4), "mask": (8,)},
    ),
    "an autoencoder": (
        lambda o, t: mean_of(squared)(o["mean"], t) + o["divergence"],
        {"mean": (8, 3), "divergence": (8,)}, (8, 3),
    ),
    "two outputs": (
        lambda o, t: squared(o[0], t[0])[:, 0] + squared(o[1], t[1]),
        [(8, 1), (8,)], [(8, 1), (8,)],
    ),
    "an output without examples": (
        lambda o, t: squared(o["code"][:, None], o["book"]).mean((1, 2)) + t,
        {"code": (8, 3), "book": (9, 3)}, (8,),
    ),
    "a mapped loss": (jax.vmap(lambda o, t: squared(o, t).sum()), (8, 3), (8, 3)),
    "pairs by a product": (lambda o, t: -jnp.diag(jax.nn.log_softmax(o @ t.T)), (8, 3), (8, 3)),
    "pairs by distance": (pairs_by_distance, (8, 3), (8, 3)),
    "pairs of equal labels": (
        lambda o, t: jnp.where(t[:, None] == t[None], o @ o.T, 0).sum(-1), (8, 3), (8,)
    ),
    "top 2": (functools.partial(metrics.top_k, k=2), (8, 4), (8,)),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_takes_every_other_loss(case):
    loss, outputs, targets = RIGHT[case]
    given = shaped(outputs, jnp.float32), shaped(targets, jnp.int32)
    jax.eval_shape(loss, *given)  # it runs
    check_pairing("loss", loss, *given)


INPUTS = np.linspace(-1, 1, 24, dtype=np.float32)[:, None]
LABELS = (INPUTS[:, 0] > 0).astype(np.int64)
BATCH = {"inputs": jnp.asarray(INPUTS), "targets": LABELS}
TASK = training.Task(models.MLP([1]), mean_of(bce))
SGD, KEY = optimizers.sgd(0.1), jax.random.key(0)


def by_fit(train, **others):
    given = data.Dataset("signs", train, **{"validation": None, "test": None} | others)
    training.fit(TASK, given, SGD, epochs=1, batch_size=8, key=KEY)


def by_run(train, **others):
    run = training.make_run(TASK, SGD, batch_size=8)
    run(KEY, {"train": train, **others}, training.orders(KEY, 1, 24))


def by_sweep(train, **others):
    run = training.make_run(TASK, SGD, batch_size=8)
    orders = {"orders": lambda key: training.orders(key, 1, 24)}
    member = functools.partial(run, data={"train": train, **others})
    training.sweep(member, seeds=2, by_seed=orders)


def by_step(train):
    state = training.init_state(KEY, TASK, SGD, jnp.asarray(train.inputs))
    jax.jit(training.make_train_step(TASK, SGD))(state, BATCH)


@pytest.mark.parametrize("way", [by_fit, by_run, by_sweep, by_step])
def test_every_way_to_train_refuses_it_with_both_shapes(way):
    with pytest.raises(ValueError, match=r"outputs of shape \(8, 1\)|outputs of shape \(24, 1\)"):
        way(data.Arrays(INPUTS, LABELS))


@pytest.mark.parametrize("way", [by_fit, by_run, by_sweep])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_other_splits_are_refused_before_training(way, split):
    train = data.Arrays(INPUTS, LABELS[:, None])
    way(train, **{split: train})
    with pytest.raises(ValueError, match="loss must pair each output with its own target"):
        way(train, **{split: data.Arrays(INPUTS, LABELS)})


def test_a_metric_is_refused_too():
    def right(outputs, targets):
        return ((outputs > 0) == targets).mean(-1)

    task = training.Task(models.MLP([1]), lambda o, t: bce(o[:, 0], t), [right])
    state = training.init_state(KEY, task, SGD, jnp.asarray(INPUTS))
    with pytest.raises(ValueError, match="right must pair each output"):
        training.make_eval_step(task)(state.variables, BATCH)

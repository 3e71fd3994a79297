"""`recalibrate` and `check_batch_norm`: tasks, modes, several inputs, models of other libraries."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

from jaxdl import data, losses, models, training
from jaxdl.calling import Mode, adapt, call_model
from jaxdl.diagnostics import check_batch_norm
from jaxdl.layers import BatchNorm
from jaxdl.layers.norm import apply_norm
from jaxdl.training import Task, recalibrate

X = 5 + 3 * jax.random.normal(jax.random.key(0), (120, 4))
# Means of 120 float32 values near 10, and squares of their deviations.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def check_exact(stats, values, ddof=0):
    """The statistics are those of all values (examples, features), in NumPy's float64."""
    values = np.asarray(values, np.float64)
    np.testing.assert_allclose(stats["mean"], values.mean(0), **TOLERANCE)
    np.testing.assert_allclose(stats["var"], values.var(0, ddof=ddof), **TOLERANCE)


class Modal(nn.Module):
    """A norm that is told of training by a keyword with an unusual name, or by a usual field."""

    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x, *, evaluates=None):
        evaluates = self.deterministic if evaluates is None else evaluates
        x = nn.BatchNorm(use_running_average=evaluates, name="first")(x)
        return nn.BatchNorm(use_running_average=evaluates, name="norm")(x**3)


class ByKeyword(nn.Module):
    """Its call has the mode alone, with another name."""

    @nn.compact
    def __call__(self, x, evaluates):
        x = nn.BatchNorm(use_running_average=evaluates, name="first")(x)
        return nn.BatchNorm(use_running_average=evaluates, name="norm")(x**3)


def normed(x):
    """What the first norm makes of a whole batch, in float64."""
    x = np.asarray(x, np.float64)
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        (ByKeyword(), Mode("evaluates", in_training=False)),
        (Modal(), None),  # the field
        (Modal(), "deterministic"),
    ],
)
def test_a_mode_of_any_name_reaches_the_norms(model, mode):
    told = {"evaluates": False}
    variables = model.init(jax.random.key(1), X, **told)
    exact = recalibrate(model, variables, [X], mode=mode)
    # The second norm's inputs tell whether the first normalised as in training.
    check_exact(exact["batch_stats"]["first"], X)
    check_exact(exact["batch_stats"]["norm"], normed(X) ** 3)
    found = check_batch_norm(model, variables, X, mode=mode)
    assert [each.problem for each in found] == ["never moved"]
    assert check_batch_norm(model, exact, X, mode=mode) == ()


def test_a_mode_that_reaches_no_norm_is_refused_unless_said():
    class Frozen(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=True, name="first")(x)
            return nn.BatchNorm(use_running_average=True, name="norm")(x**3)

    variables = Frozen().init(jax.random.key(1), X)
    for function in (lambda **s: recalibrate(Frozen(), variables, [X], **s),
                     lambda **s: check_batch_norm(Frozen(), variables, X, **s)):  # fmt: skip
        with pytest.raises(
            ValueError, match=r"training must reach the norms of Frozen, got .*mode"
        ):
            function()
    exact = recalibrate(Frozen(), variables, [X], mode=False)
    check_exact(exact["batch_stats"]["norm"], (X / np.sqrt(1 + 1e-5)) ** 3)


def tenth(inputs):
    return inputs / 10


def test_a_task_has_its_own_preprocess_and_mode():
    mode = Mode("evaluates", in_training=False)
    task = Task(ByKeyword(), losses.mean_squared_error, preprocess=tenth, mode=mode)
    variables = ByKeyword().init(jax.random.key(1), X, True)
    exact = recalibrate(task, variables, [X])
    check_exact(exact["batch_stats"]["first"], X / 10)
    assert check_batch_norm(task, exact, X) == ()
    evaluated = ByKeyword().apply(exact, X / 10, True)
    assert check_batch_norm(task, exact, X, outputs=evaluated) == ()
    shifted = X.at[:60].add(1.0)
    trained, _ = ByKeyword().apply(exact, shifted / 10, False, mutable=["batch_stats"])
    (said,) = check_batch_norm(task, exact, shifted, outputs=trained)
    assert said.problem == "training mode"
    for settings in ({"preprocess": tenth}, {"mode": mode}):
        (name,) = settings
        for function in (recalibrate, check_batch_norm):
            with pytest.raises(ValueError, match=f"a Task has its own .*{name}.*, got them again"):
                function(task, variables, [X], **settings)


class Two(nn.Module):
    """Two inputs, and noise that is drawn in evaluation too."""

    noise: float = 0.0

    @nn.compact
    def __call__(self, left, right, *, train):
        if self.noise:
            left = left + self.noise * jax.random.normal(self.make_rng("noise"), left.shape)
        return BatchNorm(name="norm")(left - 2 * right, train=train)


TWO = Two().init(jax.random.key(1), X, X, train=False)


@pytest.mark.parametrize(
    "batch",
    [
        lambda a, b: (a, b),
        lambda a, b: {"left": a, "right": b},
        lambda a, b: {"inputs": (a, b), "targets": a},
        lambda a, b: {"inputs": {"right": b, "left": a}},
        lambda a, b: data.Arrays((np.asarray(a), np.asarray(b)), np.asarray(a)),
    ],
    ids=["tuple", "names", "batch", "batch of names", "Arrays"],
)
def test_two_inputs(batch):
    right = jnp.flip(X)
    parts = [slice(0, 50), slice(50, 120)]
    exact = recalibrate(Two(), TWO, [batch(X[part], right[part]) for part in parts])
    check_exact(exact["batch_stats"]["norm"], X - 2 * right, ddof=1)
    inputs = training.statistics.inputs_of(batch(X, right))
    assert check_batch_norm(Two(), exact, inputs) == ()


def test_a_model_that_draws_random_numbers():
    model = Two(noise=0.5)
    exact = recalibrate(model, TWO, [(X, X)])
    again = recalibrate(model, TWO, [(X, X)])
    quiet = recalibrate(Two(), TWO, [(X, X)])["batch_stats"]["norm"]["var"]
    stats = exact["batch_stats"]["norm"]
    np.testing.assert_array_equal(stats["var"], again["batch_stats"]["norm"]["var"])
    # The noise adds its variance, 1/4, and twice its covariance with the inputs. Over 120 examples
    # these have the deviations 0.033 and 2 * 3 * 0.5 / sqrt(120) = 0.27: five of each.
    assert (np.abs(stats["var"] - quiet - 0.25) < 5 * (0.033 + 0.27)).all()
    assert (stats["var"] != quiet).all()
    assert check_batch_norm(model, exact, (X, X)) == ()
    with pytest.raises(ValueError, match="must draw no random numbers in evaluation"):
        check_batch_norm(model, exact, (X, X), outputs=X)
    task = Task(model, losses.mean_squared_error, evaluation_seed=3)
    outputs, _ = task.outputs(exact, (X, X), train=False)
    assert check_batch_norm(task, exact, (X, X), outputs=outputs) == ()


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)
        self.last = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.head(self.dropout(self.norm(x))))


def test_norms_of_nnx_are_recalibrated():
    model = NnxNet(nnx.Rngs(0))
    exact = recalibrate(model, None, [X[:60], X[60:]])
    check_exact(exact["batch_stats"]["norm"], X)
    whole = recalibrate(model, None, [X])
    kernel = np.asarray(model.head.kernel.get_value(), np.float64)
    check_exact(whole["batch_stats"]["last"], normed(X) @ kernel)  # without dropout
    assert [each.problem for each in check_batch_norm(model, None, X)] == ["never moved"]
    assert check_batch_norm(model, whole, X) == ()
    module = adapt(model).module(whole)
    module.eval()
    np.testing.assert_array_equal(
        module.norm.mean.get_value(), whole["batch_stats"]["norm"]["mean"]
    )
    assert check_batch_norm(module, None, X, outputs=module(X)) == ()
    # The model that was given is as it was.
    np.testing.assert_array_equal(model.norm.mean.get_value(), np.zeros(4))


class SharedNnx(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(5 - 2 * self.norm(x))


class Shared(nn.Module):
    norm: type = nn.BatchNorm

    @nn.compact
    def __call__(self, x, *, train):
        norm = self.norm(name="norm")
        return apply_norm(norm, 5 - 2 * apply_norm(norm, x, train=train), train=train)


@pytest.mark.parametrize("model", [SharedNnx(), Shared(), Shared(BatchNorm)])
def test_a_norm_that_is_called_twice_has_the_statistics_of_both_calls(model):
    variables = None
    if isinstance(model, nn.Module):
        variables = model.init(jax.random.key(0), X, train=False)
    exact = recalibrate(model, variables, [X])
    ddof = int(getattr(model, "norm", None) is BatchNorm)
    check_exact(exact["batch_stats"]["norm"], np.concatenate([X, 5 - 2 * normed(X)]), ddof)


def test_statistics_that_the_model_computes_are_refused():
    class Computed(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            changed = nn.map_variables(
                BatchNorm, "batch_stats", lambda stats: jax.tree.map(lambda s: 2 * s, stats),
                lambda stats: stats, mutable=True, init=self.is_initializing(),
            )  # fmt: skip
            return changed(name="norm")(x, train=train)

    variables = Computed().init(jax.random.key(0), X, train=False)
    with pytest.raises(ValueError, match="got a norm of Computed whose statistics the model comp"):
        recalibrate(Computed(), variables, [X])


class EquinoxNet(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __init__(self):
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")

    def __call__(self, x, state):
        return self.norm(x, state)


class Pair:
    """As `haiku.transform_with_state` gives, with a norm whose state is its own affair."""

    @staticmethod
    def init(rng, x, is_training):
        del rng, is_training
        return {}, {"mean": jnp.zeros(x.shape[1:])}

    @staticmethod
    def apply(params, state, rng, x, is_training):
        del params, rng
        mean = x.mean(0) if is_training else state["mean"]
        return x - mean, {"mean": mean}


@pytest.mark.parametrize(
    ("make", "variables", "name"),
    [
        (lambda: eqx.nn.make_with_state(EquinoxNet)(), None, "EquinoxNet"),
        (Pair, lambda: Pair.init(None, X, True), "apply"),
        (lambda: lambda params, x: x * params, lambda: jnp.ones(4), "<lambda>"),
        (lambda: nn.Dense(3), lambda: nn.Dense(3).init(jax.random.key(0), X), "Dense"),
        (
            lambda: models.MLP([2], norm=nn.LayerNorm),
            lambda: models.MLP([2]).init(jax.random.key(0), X, train=False),
            "MLP",
        ),
    ],
    ids=["equinox", "pair", "function", "dense", "no norm"],
)
def test_models_without_known_norms_are_refused(make, variables, name):
    given = None if variables is None else variables()
    for function, batches in ((recalibrate, [X]), (check_batch_norm, X)):
        with pytest.raises(ValueError, match=f"must reach a batch norm .* got none through {name}"):
            function(make(), given, batches)


def test_what_is_given_wrongly_is_refused():
    model = models.MLP([4, 1], norm=BatchNorm)
    variables = model.init(jax.random.key(1), X, train=False)
    for one in (X, {"inputs": X}, data.Arrays(np.asarray(X), np.asarray(X))):
        with pytest.raises(TypeError, match="batches must be an iterable of batches, got one"):
            recalibrate(model, variables, one)
    flax = models.MLP([4, 1], norm=nn.BatchNorm)
    params = {"params": variables["params"]}
    with pytest.raises(ValueError, match="running statistics of BatchNorm, got variables without"):
        recalibrate(flax, params, [X])
    with pytest.raises(TypeError, match="model must be a module"):
        recalibrate(models.MLP, variables, [X])
    with pytest.raises(TypeError, match=r"variables must be what model\.init"):
        recalibrate(model, None, [X])
    exact = recalibrate(model, freeze(variables), [X])
    with pytest.raises(ValueError, match="outputs must fit the model and its inputs"):
        check_batch_norm(model, exact, X, outputs=jnp.ones((120, 2)))


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = BatchNorm(name="norm")(x, train=train)
        return nn.Dropout(0.5, deterministic=not train)(x)


Jitted = nn.jit(Dropped, static_argnums=(2,))  # keeps its programs as long as the class lives


class JitNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return Jitted(name="block")(x, train)


def test_dropout_of_a_jitted_class_is_on_again_afterwards():
    variables = JitNet().init(jax.random.key(0), X, False)
    exact = recalibrate(JitNet(), variables, [X])
    check_exact(exact["batch_stats"]["block"]["norm"], X, ddof=1)
    key = jax.random.key(1)
    outputs, _ = call_model(JitNet(), variables, X, train=True, dropout_key=key)
    assert 0.3 < (outputs == 0).mean() < 0.7
    chances = training.Task(JitNet(), losses.mean_squared_error).outputs
    again, _ = jax.jit(lambda v, x: chances(v, x, train=True, key=key))(variables, X)
    assert 0.3 < (again == 0).mean() < 0.7

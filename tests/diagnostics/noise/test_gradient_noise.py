"""The noise scale: its parts unbiased for known gradients, and right for real networks."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdl import diagnostics, layers, losses, models, training
from jaxdl.diagnostics.noise.noise_estimates import Shares, estimate_noise

FEATURES = 5
MEAN = np.array([0.6, -0.3, 0.0, 0.2, 0.1])
ROOT = np.random.default_rng(1).normal(size=(FEATURES, FEATURES)) / np.sqrt(FEATURES)
COVARIANCE = ROOT @ ROOT.T
TRACE, SQUARE = np.trace(COVARIANCE), MEAN @ MEAN


def given(params, x):
    """A model whose gradient for an example is that example's input."""
    return x @ params


def output(outputs, targets):
    return outputs


MEASURE = jax.jit(functools.partial(diagnostics.gradient_noise, given, loss=output))


def drawn(draws, examples, seed=0):
    """Gradients with the known mean and covariance, (draws, examples, features)."""
    normal = np.random.default_rng(seed).normal(size=(draws, examples, FEATURES))
    return jnp.asarray(MEAN + normal @ ROOT.T, jnp.float32)


def measured_of(gradients, weights=None, small_batch=1):
    """The measurement of each draw."""

    def one(x):
        batch = {"inputs": x, "targets": jnp.zeros(len(x))}
        if weights is not None:
            batch["weights"] = jnp.asarray(weights, jnp.float32)
        return diagnostics.gradient_noise(
            given, jnp.zeros(FEATURES), batch, loss=output, small_batch=small_batch
        )

    return jax.jit(jax.vmap(one))(gradients)


def assert_unbiased(values, truth):
    """The mean over the draws within 4 standard errors: a false alarm in 16,000 keys."""
    values = np.asarray(values, np.float64).ravel()
    assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / np.sqrt(len(values))


WEIGHTS = {
    "equal": None,
    "different": [1.0, 2.0, 0.5, 3.0, 1.0, 0.25, 1.0, 2.0, 1.0, 1.0, 4.0, 1.0],
    "some zero": [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.0],
}


@pytest.mark.parametrize("small_batch", [1, 3])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_both_parts_are_unbiased(weights, small_batch):
    found = measured_of(drawn(4000, 12), WEIGHTS[weights], small_batch)
    assert_unbiased(found.covariance_trace, TRACE)
    assert_unbiased(found.squared_gradient, SQUARE)
    # What is not corrected is far off: |G|^2 has tr Cov / n beside it.
    with pytest.raises(AssertionError):
        assert_unbiased(found.gradient_norm**2, SQUARE)


def test_two_batch_sizes_are_the_formula_of_the_source():
    x = drawn(1, 12)[0]
    found = measured_of(x[None], small_batch=4)
    gradients = np.asarray(x, np.float64).reshape(3, 4, FEATURES).mean(1)
    small, big = np.mean(np.sum(gradients**2, 1)), np.sum(gradients.mean(0) ** 2)
    np.testing.assert_allclose(found.covariance_trace, [[(small - big) / (1 / 4 - 1 / 12)]], 1e-5)
    np.testing.assert_allclose(found.squared_gradient, [[(12 * big - 4 * small) / 8]], 1e-4)
    np.testing.assert_allclose(found.norms[0, 0], np.linalg.norm(gradients, axis=1), rtol=1e-5)


def test_the_jackknife_is_that_of_leaving_each_one_out():
    gradients = np.asarray(drawn(1, 9)[0], np.float64)
    weights = np.array([1.0, 2.0, 0.5, 3.0, 1.0, 0.25, 1.0, 2.0, 1.0])

    def parts(chosen):
        p = weights[chosen] / weights[chosen].sum()
        g = gradients[chosen]
        total = np.sum((p @ g) ** 2)
        trace = (p @ np.sum(g**2, 1) - total) / (1 - p @ p)
        return trace, total - trace * (p @ p)

    left = np.array([parts(np.arange(9) != out) for out in range(9)])
    errors = np.sqrt(8 / 9 * np.sum((left - left.mean(0)) ** 2, 0))
    found = measured_of(jnp.asarray(gradients, jnp.float32)[None], weights)
    everything = parts(np.arange(9))
    np.testing.assert_allclose(found.covariance_trace[0, 0], everything[0], 1e-5)
    np.testing.assert_allclose(found.squared_gradient[0, 0], everything[1], 1e-4)
    np.testing.assert_allclose(found.covariance_trace_error[0, 0], errors[0], 1e-4)
    np.testing.assert_allclose(found.squared_gradient_error[0, 0], errors[1], 1e-4)


def test_the_errors_are_the_spread_over_draws():
    found = measured_of(drawn(2000, 40))
    for name in ("covariance_trace", "squared_gradient"):
        values, errors = (np.asarray(getattr(found, n)) for n in (name, f"{name}_error"))
        # The jackknife's variance is right to first order in 1 / n, and never too small on average.
        assert 0.95 < np.sqrt(np.mean(errors**2)) / values.std() < 1.15


@pytest.mark.parametrize("examples", [20, 80])
def test_the_interval_holds_the_true_scale_nearly_as_often_as_it_says(examples):
    found = measured_of(drawn(2000, examples))
    low, high = np.asarray(found.low), np.asarray(found.high)
    inside = (low <= TRACE / SQUARE) & (high >= TRACE / SQUARE)
    # 0.95 for normal estimates. Of 20 examples they are skewed; 2,000 draws know it to 0.007.
    assert 0.90 < inside.mean() < 0.985
    assert (np.isinf(high).mean() > 0.02) == (examples == 20)
    middle = np.asarray(found.noise_scale)
    known = ~np.isnan(middle)
    assert np.all((low <= middle)[known] & (middle <= high)[known])


def test_a_gradient_of_noise_alone_has_no_scale_and_that_is_said():
    x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    found = diagnostics.gradient_noise(given, jnp.zeros(2), (x, jnp.zeros(4)), loss=output)
    assert found.squared_gradient.item() == pytest.approx(-1 / 3)
    assert np.isnan(found.noise_scale.item())
    assert found.high.item() == np.inf
    assert "all none" in repr(found)
    assert "does not stand out" in found.table().caption


def test_gradients_without_noise_have_scale_zero():
    x = jnp.ones((5, 2))
    found = diagnostics.gradient_noise(given, jnp.zeros(2), (x, jnp.zeros(5)), loss=output)
    # Rounding of the squares, times the number of examples.
    assert 0 <= found.noise_scale.item() < 1e-5
    np.testing.assert_allclose(found.alignment, np.ones((1, 5)), rtol=1e-6)


@pytest.mark.parametrize("size", [1e-25, 1e18])
def test_squares_beyond_float32_do_not_spoil_the_ratio(size):
    x = drawn(1, 30)
    plain, scaled = measured_of(x), measured_of(x * size)
    for name in ("noise_scale", "low", "high", "alignment"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(plain, name), rtol=1e-4)
    np.testing.assert_allclose(scaled.norms / size, plain.norms, rtol=1e-5)


def network(**settings):
    model = models.MLP([8, 3], **settings)
    task = training.Task(model, losses.cross_entropy)
    x = jax.random.normal(jax.random.key(1), (12, 4))
    return task, jax.jit(task.init)(jax.random.key(0), x), (x, jnp.arange(12) % 3)


class Positions(nn.Module):
    """Products at many places: some cheaper by places, some by features."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3))(x))
        x = nn.relu(nn.Dense(30)(x))
        x = nn.Dense(40)(x.mean(1))
        return nn.Dense(2)(x.mean(1))


def images():
    task = training.Task(Positions(), losses.cross_entropy)
    x = jax.random.normal(jax.random.key(1), (10, 6, 6, 2))
    return task, jax.jit(task.init)(jax.random.key(0), x), (x, jnp.arange(10) % 2)


@pytest.mark.parametrize("make", [network, images], ids=["products", "places"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_norms_and_cosines_by_layer_are_those_of_the_gradients(make, batch_size):
    task, variables, batch = make()
    found = diagnostics.gradient_noise(task, variables, batch, layers="each", batch_size=batch_size)
    gradients = diagnostics.example_gradients(task, variables, batch)
    for index, name in enumerate(found.names):
        leaves = jax.tree.leaves(gradients["params"] if "params" in gradients else gradients[name])
        rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], 1).astype(float)
        mean = rows.mean(0)
        sizes = np.linalg.norm(rows, axis=1)
        np.testing.assert_allclose(found.norms[index], sizes, rtol=1e-4)
        np.testing.assert_allclose(found.gradient_norm[index], np.linalg.norm(mean), rtol=1e-4)
        cosines = rows @ mean / np.linalg.norm(mean) / sizes
        np.testing.assert_allclose(found.alignment[index], cosines, atol=1e-4)
        trace = rows.var(0, ddof=1).sum()
        np.testing.assert_allclose(found.covariance_trace[index], trace, rtol=1e-3)
        assert found.parameters[index] == rows.shape[1]
    whole = diagnostics.gradient_noise(task, variables, batch)
    assert whole.names == ("all",)
    np.testing.assert_allclose(whole.covariance_trace[0], np.sum(found.covariance_trace), rtol=1e-3)


def test_small_batches_have_the_gradients_of_training_with_their_own_statistics():
    task, variables, (x, y) = network(norm=layers.BatchNorm)
    found = diagnostics.gradient_noise(task, variables, (x, y), small_batch=4)
    step = jax.jit(jax.grad(lambda params, x, y: losses.cross_entropy(
        task.outputs({**variables, "params": params}, x, train=True)[0], y).mean()))  # fmt: skip
    norms = [
        np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(step(
            variables["params"], x[i : i + 4], y[i : i + 4]))))
        for i in (0, 4, 8)
    ]  # fmt: skip
    np.testing.assert_allclose(found.norms[0], norms, rtol=1e-4)


def test_it_jits_and_maps_over_variables():
    task, _, (x, y) = network()
    many = jax.vmap(lambda key: task.init(key, x))(jax.random.split(jax.random.key(0), 3))
    mapped = jax.jit(jax.vmap(lambda v: diagnostics.gradient_noise(task, v, (x, y))))(many)
    for member in range(3):
        one = diagnostics.gradient_noise(
            task, jax.tree.map(lambda leaf, m=member: leaf[m], many), (x, y)
        )
        np.testing.assert_allclose(mapped.norms[member], one.norms, rtol=1e-5)
        np.testing.assert_allclose(mapped.noise_scale[member], one.noise_scale, rtol=1e-3)
    assert "GradientNoise(1 group: noise scale" in repr(mapped)
    assert mapped.table().row_count == 1


def test_dropout_needs_a_key_and_adds_noise():
    task, variables, batch = network(dropout_rate=0.5)
    with pytest.raises(ValueError, match=r"needs a key, .* or train=False"):
        diagnostics.gradient_noise(task, variables, batch)
    still = diagnostics.gradient_noise(task, variables, batch, train=False)
    moved = diagnostics.gradient_noise(task, variables, batch, key=jax.random.key(1))
    assert moved.covariance_trace > still.covariance_trace


BAD = {
    "one example": ({"batch": (jnp.ones((1, 4)), jnp.zeros(1, int))}, "2 small batches or more"),
    "one small batch": ({"small_batch": 12}, "got 12 examples in small batches of 12"),
    "a rest": ({"small_batch": 5}, "pass 10 examples"),
    "no small batch": ({"small_batch": 0}, "small_batch must be at least 1"),
    "a piece below a small batch": ({"small_batch": 4, "batch_size": 3}, "at least 4"),
    "a layer without parameters": ({"layers": ["activation"]}, "must have parameters"),
    "no example": ({"batch": (jnp.ones((0, 4)), jnp.zeros(0, int))}, "must have an example"),
    "fewer targets": ({"batch": (jnp.ones((6, 4)), jnp.zeros(3, int))}, "as many in each"),
    "no weight": (
        {
            "batch": {
                "inputs": jnp.ones((6, 4)),
                "targets": jnp.zeros(6, int),
                "weights": np.zeros(6),
            }
        },
        "weights that are all 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_the_fix(case):
    settings, said = BAD[case]
    task, variables, batch = network()
    batch = settings.pop("batch", batch) if "batch" in settings else batch
    with pytest.raises(ValueError, match=said):
        diagnostics.gradient_noise(task, variables, batch, **settings)


def test_two_examples_have_estimates_and_no_errors():
    found = measured_of(drawn(1, 2))
    assert np.isfinite(found.covariance_trace).all()
    assert np.isnan(found.covariance_trace_error).all()
    assert np.isnan(found.low).all()


def test_the_average_is_of_the_parts_and_unbiased_from_its_start():
    found = measured_of(drawn(50, 4))
    by_step = [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(50)]
    average, weights = None, 0.8 ** np.arange(49, -1, -1)
    for one in by_step:
        average = diagnostics.average_noise(one, average, decay=0.8)
    parts = (found.covariance_trace[:, 0], found.squared_gradient[:, 0])
    traces, squares = (np.asarray(part, float) for part in parts)
    np.testing.assert_allclose(average.weight, 1 - 0.8**50, rtol=1e-5)
    np.testing.assert_allclose(average.noise_scale, weights @ traces / (weights @ squares), 1e-4)

    def scanned(carry, one):
        carry = diagnostics.average_noise(one, carry, decay=0.8)
        return carry, carry.noise_scale

    zero = jax.tree.map(jnp.zeros_like, average)
    np.testing.assert_allclose(
        jax.lax.scan(scanned, zero, found)[0].noise_scale, average.noise_scale, rtol=1e-5
    )
    with pytest.raises(ValueError, match="decay must lie"):
        diagnostics.average_noise(by_step[0], decay=1.0)


def test_shares_of_examples_that_all_weigh_the_same_are_two_batch_sizes():
    gradients = np.asarray(drawn(1, 6)[0], np.float64)
    total = gradients.mean(0)
    found = estimate_noise(
        jnp.linalg.norm(gradients, axis=1),
        jnp.asarray(gradients @ total / np.linalg.norm(total)),
        jnp.linalg.norm(total),
        Shares(jnp.full(6, 1 / 6), jnp.full(6, 1 / 8)),
    )
    np.testing.assert_allclose(
        found.covariance_trace, 8 * gradients.var(0, ddof=1).sum(), rtol=1e-5
    )


def test_the_figure_and_the_table_show_every_group():
    task, variables, batch = network()
    found = diagnostics.gradient_noise(task, variables, batch, layers="each")
    assert [label.get_text() for label in found.plot().axes[0].get_yticklabels()] == [
        "dense_0",
        "dense_1",
    ]
    assert found.table().row_count == 2
    assert "dense_1" in found._repr_html_()


@pytest.mark.parametrize("count", [2, 3, 10])
def test_padding_changes_no_interval(count):
    x = drawn(1, count + 30)
    padded, plain = measured_of(x, np.arange(count + 30) < count), measured_of(x[:, :count])
    for name in ("covariance_trace", "covariance_trace_error", "squared_gradient_error", "low"):
        np.testing.assert_allclose(getattr(padded, name), getattr(plain, name), rtol=1e-3)
    np.testing.assert_allclose(padded.high, plain.high, rtol=1e-2)


def test_one_example_with_weight_has_no_noise_and_that_is_said():
    found = jax.tree.map(lambda leaf: leaf[0], measured_of(drawn(1, 6), [0, 0, 1, 0, 0, 0]))
    for name in ("covariance_trace", "squared_gradient", "noise_scale", "low", "high"):
        assert np.isnan(getattr(found, name)).all()
    assert "all too few examples" in repr(found)
    assert "stand out" not in found.table().caption


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_said(bad):
    x = drawn(1, 6)[0].at[2, 1].set(bad)
    found = diagnostics.gradient_noise(given, jnp.zeros(FEATURES), (x, jnp.zeros(6)), loss=output)
    assert np.isnan(found.noise_scale.item())
    assert "all not finite" in repr(found)
    assert "not finite in all" in found.table().caption
    assert "stand out" not in found.table().caption


def test_an_average_leaves_out_what_is_not_finite():
    found = measured_of(drawn(3, 8))
    by_step = [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(3)]
    lost = dataclasses.replace(by_step[1], covariance_trace=jnp.array([jnp.nan]))
    with_it, without = None, None
    for one in (by_step[0], lost, by_step[2]):
        with_it = diagnostics.average_noise(one, with_it)
    for one in (by_step[0], by_step[2]):
        without = diagnostics.average_noise(one, without)
    for one, other in zip(jax.tree.leaves(with_it), jax.tree.leaves(without), strict=True):
        np.testing.assert_array_equal(one, other)
    nothing = diagnostics.average_noise(lost)
    assert nothing.weight.item() == 0
    assert "none" in repr(nothing)


def test_an_average_is_of_one_measurement_of_the_same_groups():
    task, variables, batch = network()
    whole = diagnostics.gradient_noise(task, variables, batch)
    each = diagnostics.gradient_noise(task, variables, batch, layers="each")
    with pytest.raises(TypeError, match="must be one GradientNoise, got list"):
        diagnostics.average_noise([whole, whole])
    with pytest.raises(ValueError, match="of the groups that are measured"):
        diagnostics.average_noise(each, diagnostics.average_noise(whole))


def test_a_mapped_measurement_has_a_figure_of_its_mean():
    task, _, (x, y) = network()
    many = jax.vmap(lambda key: task.init(key, x))(jax.random.split(jax.random.key(0), 3))
    mapped = jax.vmap(lambda v: diagnostics.gradient_noise(task, v, (x, y), layers="each"))(many)
    scales, turns = mapped.plot().axes
    ratio = mapped.covariance_trace.mean(0) / mapped.squared_gradient.mean(0)
    (marks,) = [line for line in scales.lines if line.get_marker() == "s"]
    np.testing.assert_allclose(marks.get_xdata(), ratio[ratio > 0], rtol=1e-5)
    assert "mean of 3 runs" in scales.get_xlabel()
    counts = [patch.get_xy()[:, 1].max() for patch in turns.patches]
    assert len(counts) == 2
    for index, patch in enumerate(turns.patches):
        heights, _ = np.histogram(mapped.alignment[:, index], np.linspace(-1, 1, 41))
        assert patch.get_xy()[:, 1].max() == heights.max()


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.Dense(4)(x)))


@pytest.mark.parametrize(
    "measure",
    [
        diagnostics.gradient_noise,
        diagnostics.signal_to_noise,
        diagnostics.example_gradients,
        diagnostics.sharpness,
        diagnostics.hessian_trace,
        diagnostics.curvature_spectrum,
    ],
)
def test_a_missing_key_is_asked_for(measure):
    x = jnp.ones((6, 4))
    variables = Dropped().init(jax.random.key(0), x, train=False)
    batch = (x, jnp.arange(6) % 3)
    with pytest.raises(ValueError, match=r"needs a key, .* pass key=.*, or train=False"):
        measure(Dropped(), variables, batch, loss=losses.cross_entropy)


@pytest.mark.parametrize(
    "measure",
    [
        diagnostics.signal_to_noise,
        diagnostics.example_gradients,
        diagnostics.sharpness,
        functools.partial(diagnostics.sharpness, matrix="gauss_newton"),
        diagnostics.hessian_trace,
        diagnostics.curvature_spectrum,
    ],
)
def test_a_batch_without_examples_is_refused(measure):
    batch = (jnp.ones((0, 4)), jnp.ones((0, 2)))
    with pytest.raises(ValueError, match="must have an example, got none"):
        measure(given, jnp.ones((4, 2)), batch, loss=losses.mean_squared_error)


def test_an_nnx_state_of_parameters_alone_is_refused_with_what_is_missing():
    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.head, self.norm = nnx.Linear(4, 3, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            return self.head(self.norm(x))

    model, batch = Normed(nnx.Rngs(0)), (network()[2])
    measure = functools.partial(
        diagnostics.gradient_noise, model, batch=batch, loss=losses.cross_entropy, train=False
    )
    with pytest.raises(ValueError, match=r"without \['norm/mean', 'norm/var'\]; pass nnx.state"):
        measure(nnx.state(model, nnx.Param))
    np.testing.assert_array_equal(measure(nnx.state(model)).norms, measure(None).norms)

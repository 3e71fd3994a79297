"""Bands over runs, learning curves, and the signal by row: what the lines hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t

from jaxdl import data, diagnostics, losses, models, optimizers, plotting, training

X = [1.0, 2.0, 4.0]
RUNS = np.array([[1.0, 2.0, 0.0], [3.0, 2.0, 1.0], [8.0, 5.0, 2.0]])


def drawn(spread):
    axes = plotting.new_figure(4, 3).subplots()
    line = plotting.band(axes, X, RUNS, "C2--", spread=spread, label="runs", lw=3)
    (shade,) = axes.collections
    corners = shade.get_paths()[0].vertices
    ends = [[y for x, y in corners if x == at] for at in X]
    np.testing.assert_allclose(shade.get_facecolor()[0][:3], plotting_colour("C2"))
    assert (line.get_label(), line.get_linewidth()) == ("runs", 3)
    return line.get_ydata(), np.array([min(y) for y in ends]), np.array([max(y) for y in ends])


def plotting_colour(name):
    from matplotlib.colors import to_rgb

    return to_rgb(name)


def test_a_band_is_the_interval_the_range_or_quantiles():
    mean, low, high = drawn("interval")
    half = t.ppf(0.975, 2) * RUNS.std(0, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose([mean, low, high], [RUNS.mean(0), mean - half, mean + half])
    np.testing.assert_allclose(drawn("range"), [RUNS.mean(0), RUNS.min(0), RUNS.max(0)])
    np.testing.assert_allclose(drawn((0.0, 0.5)), [RUNS[1], RUNS[0], RUNS[1]])


@pytest.mark.parametrize("spread", ["sd", (0.9, 0.1), (0.1, 0.5, 0.9)])
def test_an_unknown_spread_is_refused(spread):
    with pytest.raises(ValueError, match="spread must be"):
        drawn(spread)


def test_runs_must_be_a_table():
    axes = plotting.new_figure(4, 3).subplots()
    for runs in (RUNS[0], RUNS[:, :2], RUNS[None]):
        with pytest.raises(ValueError, match="runs first"):
            plotting.band(axes, X, runs)


def test_a_history_draws_each_value_by_step_and_epoch():
    x = np.linspace(-1, 1, 12, dtype=np.float32)[:, None]
    given = data.Dataset(
        name="line", train=data.Arrays(x, 2 * x), validation=data.Arrays(x, 2 * x), test=None
    )
    history = training.fit(
        models.MLP([1]), given, loss=losses.mean_squared_error, optimizer=optimizers.sgd(0.1),
        metrics={"error": losses.mean_squared_error}, preprocess=lambda inputs: inputs,
        epochs=3, batch_size=4, key=jax.random.key(0), progress=False,
    ).history  # fmt: skip
    loss, error = history.plot().axes
    assert (loss.get_ylabel(), error.get_ylabel()) == ("loss", "error")
    steps, train, validation = (line.get_xydata().T for line in loss.get_lines())
    np.testing.assert_allclose(steps, [np.arange(1, 10) / 3, history.steps["loss"]])
    np.testing.assert_allclose(train, [[1, 2, 3], history.train["loss"]])
    np.testing.assert_allclose(validation, [[1, 2, 3], history.validation["loss"]])


def test_nothing_measured_is_refused():
    with pytest.raises(ValueError, match="measured something"):
        plotting.learning_curves({}, {}, {})


def test_a_propagation_draws_its_rows_beside_a_theory():
    model = models.MLP([8, 8, 2])
    batch = {"inputs": jnp.eye(4), "targets": jnp.array([0, 1, 0, 1])}
    variables = model.init(jax.random.key(0), batch["inputs"], train=False)
    measured = diagnostics.propagation(model, variables, batch, loss=losses.cross_entropy)
    flat = np.ones(len(measured.names))
    forward, backward = measured.plot({"flat": (flat, 2 * flat)}).axes
    for axes, values, height in (
        (forward, measured.stddev, 1),
        (backward, measured.gradient_stddev, 2),
    ):
        line, weighted, without, theory = axes.get_lines()
        np.testing.assert_allclose(line.get_ydata(), values)
        assert weighted.get_xdata().tolist() == np.flatnonzero(measured.has_weights).tolist()
        assert len(without.get_xdata()) == sum(measured.is_activation)
        assert theory.get_label() == "flat"
        assert (theory.get_ydata() == height).all()
    assert [label.get_text() for label in backward.get_xticklabels()] == list(measured.names)


def curves(count, values):
    return {f"value {i}": np.asarray(values, float) for i in range(count)}


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (6, 3, 2), (4, 3, 2)])
def test_panels_stand_three_in_a_row(count, columns, rows):
    figure = plotting.learning_curves(curves(count, [1, 2]), curves(count, [2]), {})
    assert len(figure.axes) == count
    assert figure.get_size_inches().tolist() == [4.5 * columns, 3.5 * rows]


def test_a_value_that_was_only_validated_has_a_panel():
    figure = plotting.learning_curves(
        {"loss": np.ones(4)}, {"loss": np.ones(2)}, {"f1": [0.1, 0.2]}
    )
    _, panel = figure.axes
    (line,) = panel.get_lines()
    assert (panel.get_ylabel(), line.get_label()) == ("f1", "validation")


def test_one_epoch_is_a_dot_and_not_nothing():
    (axes,) = plotting.learning_curves({}, {"loss": [1.0]}, {"loss": [2.0]}).axes
    train, validation = axes.get_lines()
    assert train.get_marker() == validation.get_marker() == "."
    left, right = axes.get_xlim()
    assert left == 0
    assert right > 1
    axes.figure.draw_without_rendering()
    inside = [tick for tick in axes.get_xticks() if left <= tick <= right]
    assert inside == [0, 1]


def test_what_is_not_finite_is_a_gap_on_the_same_axis():
    figure = plotting.learning_curves(
        {}, {"loss": [1.0, np.nan, np.nan], "error": [np.nan] * 3}, {"loss": [], "error": []}
    )
    loss, error = figure.axes
    assert loss.get_xlim() == error.get_xlim()
    assert [text.get_text() for text in error.texts] == ["nothing finite"]
    assert not loss.texts
    figure.draw_without_rendering()

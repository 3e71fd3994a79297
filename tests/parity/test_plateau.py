"""A thousand random runs of the plateau against PyTorch's, decision by decision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.optimizers.plateau import plateau, report_metric

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

RUNS, EPOCHS, RATE = 1000, 60, 0.1


def random_settings(random):
    return {
        "mode": str(random.choice(["min", "max"])),
        "threshold_mode": str(random.choice(["rel", "abs"])),
        "factor": float(random.choice([0.1, 0.5, random.uniform(0.05, 0.95)])),
        "patience": int(random.integers(0, 8)),
        # Those by which PyTorch's best * (1 + threshold) is not rounded off a tie.
        "threshold": float(
            random.choice([0.0, 1e-4, 0.01, 0.1, 0.25, 10 ** random.uniform(-6, -1)])
        ),
        "cooldown": int(random.choice([0, 0, 1, 5])),
        "min_lr": float(random.choice([0.0, 0.0, 1e-3, 0.03, 0.2])),
        "eps": float(random.choice([1e-8, 0.0, 3e-3])),
    }


def random_metrics(random):
    """Falling, rising, flat and wandering metrics of both signs, some on a grid, where they tie."""
    trend = random.choice([-0.1, 0.0, 0.1]) * np.arange(EPOCHS)
    noise = random.normal(size=EPOCHS) * random.choice([0.0, 0.01, 0.3])
    metrics = random.choice([-8.0, 0.0, 0.5, 8.0]) + trend + noise
    spacing = random.choice([0.0, 1 / 8, 1.0])
    metrics = np.round(metrics / spacing) * spacing if spacing else metrics
    if random.random() < 0.1:
        metrics[random.integers(0, EPOCHS, 3)] = [np.nan, np.inf, -np.inf]
    return metrics.astype(np.float32)


def theirs(settings, metrics):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **settings)
    for metric in metrics:
        scheduler.step(float(metric))
        yield (
            optimizer.param_groups[0]["lr"],
            scheduler.best,
            scheduler.num_bad_epochs,
            scheduler.cooldown_counter,
        )


@jax.jit
@jax.vmap
def ours(state, metrics):
    def step(state, metric):
        state = report_metric(state, metric)
        return state, tuple(state[:4])

    return jax.lax.scan(step, state, metrics)[1]


def test_a_thousand_random_runs():
    random = np.random.default_rng(0)
    settings = [random_settings(random) for _ in range(RUNS)]
    metrics = np.stack([random_metrics(random) for _ in range(RUNS)])
    states = [jax.tree.map(np.asarray, plateau(RATE, **s).init({})) for s in settings]
    rate, best, bad, cool = ours(
        jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *states), jnp.asarray(metrics)
    )
    expected = np.array([list(theirs(s, m)) for s, m in zip(settings, metrics, strict=True)])
    np.testing.assert_array_equal(best, expected[..., 1])
    np.testing.assert_array_equal(bad, expected[..., 2])
    np.testing.assert_array_equal(cool, expected[..., 3])
    # A reduction rounds the product, and the factor that it takes is rounded: 2^-24 and 2^-25 at
    # most; the rate begins with one rounding, and is 0 below float32's normal numbers.
    reductions = np.cumsum(np.diff(expected[..., 0], axis=1, prepend=RATE) != 0, axis=1)
    bound = (1 + 2 * reductions) * 2.0**-24 * expected[..., 0] + 2.0**-126
    assert np.all(np.abs(np.asarray(rate, np.float64) - expected[..., 0]) <= bound)
    # The runs tell: most reduce, some to the floor or not at all, some many times.
    counts = reductions[:, -1]
    assert np.mean(counts > 0) > 0.5
    assert np.mean(counts == 0) > 0.1
    assert counts.max() > 20

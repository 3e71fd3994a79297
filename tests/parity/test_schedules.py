"""Two hundred steps of every schedule against PyTorch's scheduler of the same settings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.optimizers import schedules

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
lr = torch.optim.lr_scheduler

STEPS, RATE = 200, 0.3

CASES: dict[str, Any] = {
    "step": [
        (schedules.step_decay(RATE, every=n, factor=f), lambda o, n=n, f=f: lr.StepLR(o, n, f))
        for n, f in ((1, 0.9), (30, 0.1), (41, 0.5), (300, 0.1))
    ],
    "multistep": [
        (
            schedules.multistep_decay(RATE, boundaries=b, factor=f),
            lambda o, b=b, f=f: lr.MultiStepLR(o, b, f),
        )
        for b, f in (([1, 2, 150], 0.1), ([199], 0.5), ([30, 80, 300], 2.0))
    ],
    "exponential": [
        (schedules.exponential_decay(RATE, factor=f), lambda o, f=f: lr.ExponentialLR(o, f))
        for f in (0.9, 0.999, 1.01)
    ],
    "inverse time": [
        (
            schedules.inverse_time_decay(RATE, decay=d),
            lambda o, d=d: lr.LambdaLR(o, lambda t: 1 / (1 + d * t)),
        )
        for d in (0.0, 0.01, 2.0)
    ],
    "polynomial": [
        (
            schedules.polynomial_decay(RATE, steps=n, power=p),
            lambda o, n=n, p=p: lr.PolynomialLR(o, n, p),
        )
        for n, p in ((50, 1.0), (150, 0.9), (300, 2.0), (199, 0.5))
    ],
    "linear": [
        (
            schedules.polynomial_decay(RATE, steps=n, end_rate=RATE * e),
            lambda o, n=n, e=e: lr.LinearLR(o, 1.0, e, n),
        )
        for n, e in ((50, 0.1), (300, 0.5))
    ],
    "warm-up": [
        (
            schedules.warmup(RATE, steps=n, start_factor=a),
            lambda o, n=n, a=a: lr.LinearLR(o, a, 1.0, n),
        )
        for n, a in ((5, 1 / 3), (150, 1e-3), (300, 1.0))
    ],
    "cosine": [
        (
            schedules.cosine_decay(RATE, steps=n, end_rate=e),
            lambda o, n=n, e=e: lr.CosineAnnealingLR(o, n, e),
        )
        for n, e in ((199, 0.0), (200, 0.01), (500, 0.1))
    ],
    "restarts": [
        (
            schedules.cosine_restarts(RATE, cycle_steps=n, growth=m, end_rate=e),
            lambda o, n=n, m=m, e=e: lr.CosineAnnealingWarmRestarts(o, n, m, e),
        )
        for n, m, e in ((1, 1, 0.1), (41, 1, 0.0), (10, 2, 0.01), (1, 3, 0.0), (500, 2, 0.0))
    ],
    "one cycle": [
        (
            schedules.one_cycle(
                RATE,
                steps=n,
                warmup_fraction=f,
                anneal=shape,
                initial_divisor=d,
                final_divisor=g,
                three_phase=three,
            ),
            lambda o, n=n, f=f, shape=shape, d=d, g=g, three=three: lr.OneCycleLR(
                o,
                RATE,
                n,
                None,
                None,
                f,
                shape[:3].replace("lin", "linear"),
                False,
                div_factor=d,
                final_div_factor=g,
                three_phase=three,
            ),
        )
        for shape in ("cosine", "linear")
        for n, f, d, g, three in (
            (200, 0.3, 25.0, 1e4, False),
            (200, 0.333, 10.0, 100.0, True),
            (333, 0.1, 1.0, 1.0, False),
            (211, 0.47, 4.0, 1e3, True),
        )
    ],
    "joined": [
        (
            schedules.joined(
                [
                    schedules.warmup(RATE, steps=20, start_factor=0.1),
                    schedules.cosine_decay(RATE, steps=100),
                    schedules.exponential_decay(RATE, factor=0.9),
                ],
                boundaries=[20, 120],
            ),
            lambda o: lr.SequentialLR(
                o,
                [
                    lr.LinearLR(o, 0.1, 1.0, 20),
                    lr.CosineAnnealingLR(o, 100),
                    lr.ExponentialLR(o, 0.9),
                ],
                [20, 120],
            ),
        ),
        (
            schedules.joined(
                [
                    schedules.warmup(RATE, steps=30, start_factor=0.5),
                    schedules.step_decay(RATE, every=40),
                ],
                boundaries=[10],
            ),
            lambda o: lr.SequentialLR(o, [lr.LinearLR(o, 0.5, 1.0, 30), lr.StepLR(o, 40)], [10]),
        ),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_rates(name):
    for i, (ours, theirs) in enumerate(CASES[name]):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
        scheduler, measured = theirs(optimizer), []
        for _ in range(STEPS):
            measured.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        expected = np.array(measured)
        rates = np.asarray(jax.jit(ours)(jnp.arange(STEPS)), np.float64)
        # Ours: 16 roundings and twice the logarithm of the decay, relative, and the rounding of
        # the rate itself. Theirs: float64, 200 times over, and cancelled by up to 200^2 near the
        # end of a cosine.
        x = np.abs(np.log(np.maximum(expected, 1e-30) / RATE))
        bound = (18 + 2 * x) * 2.0**-24 * expected + 200**3 * 2.0**-53 * RATE
        assert np.all(np.abs(rates - expected) <= bound), (name, i)

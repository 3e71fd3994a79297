"""Each optimizer against its published formula, stepped in NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import MATRIX, PROBLEMS, STEPS, relative_error, trajectory

from jaxdl import optimizers
from jaxdl.optimizers.moments import bias_correction
from jaxdl.optimizers.radam import length_of_average

# float32 rounds at 6e-8; a hundred steps of a contracting map keep the sum of it below this.
TOLERANCE = 1e-5


def decaying(step):
    return 0.008 / (1 + 0.1 * step)


def sgd(grad, w, rate):
    for t in range(STEPS):
        w = w - rate(t) * grad(w)
        yield w


def momentum(grad, w, rate, decay=0.9, inside=True):
    v = 0 * w
    for t in range(STEPS):
        g = grad(w)
        v = decay * v + (rate(t) * g if inside else g)
        w = w - (v if inside else rate(t) * v)
        yield w


def nesterov(grad, theta, rate, decay=0.9):
    """The lecture's form: the gradient at the look-ahead point, theta kept."""
    v = 0 * theta
    for t in range(STEPS):
        v = decay * v + rate(t) * grad(theta - decay * v)
        theta = theta - v
        yield theta


def nesterov_outside(grad, phi, rate, decay=0.9):
    """PyTorch's form: what it holds is the look-ahead point."""
    v = 0 * phi
    for t in range(STEPS):
        g = grad(phi)
        v = decay * v + g
        phi = phi - rate(t) * (g + decay * v)
        yield phi


def root(square, epsilon, inside):
    return np.sqrt(square + epsilon) if inside else np.sqrt(square) + epsilon


def adagrad(grad, w, rate, first=0.0, epsilon=1e-8, inside=True):
    total = np.full_like(w, first)
    for t in range(STEPS):
        g = grad(w)
        total = total + g**2
        w = w - rate(t) * g / root(total, epsilon, inside)
        yield w


def adadelta(grad, w, rate, decay=0.9, epsilon=1e-6, of_gradient=1e-6):
    square_g, square_x = 0 * w, 0 * w
    for t in range(STEPS):
        g = grad(w)
        square_g = decay * square_g + (1 - decay) * g**2
        x = -np.sqrt(square_x + epsilon) / np.sqrt(square_g + of_gradient) * g
        square_x = decay * square_x + (1 - decay) * x**2
        w = w + rate(t) * x
        yield w


def rmsprop(
    grad, w, rate, decay=0.9, epsilon=1e-8, inside=True, centered=False, velocity=0.0,
    rate_inside=True,
):  # fmt: skip
    v, mean, trace = 0 * w, 0 * w, 0 * w
    for t in range(STEPS):
        g = grad(w)
        v = decay * v + (1 - decay) * g**2
        mean = decay * mean + (1 - decay) * g
        u = g / root(v - mean**2 if centered else v, epsilon, inside)
        trace = velocity * trace + (rate(t) * u if rate_inside else u)
        w = w - (trace if rate_inside else rate(t) * trace)
        yield w


def adam(grad, w, rate, beta1=0.9, beta2=0.999, epsilon=1e-8, inside=True, amsgrad=None, decay=0.0):
    m, v, top = 0 * w, 0 * w, 0 * w
    for t in range(1, STEPS + 1):
        g = grad(w)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        v_hat = v / (1 - beta2**t)
        if amsgrad == "raw":
            top = np.maximum(top, v)
            v_hat = top / (1 - beta2**t)
        elif amsgrad == "corrected":
            top = np.maximum(top, v_hat)
            v_hat = top
        u = m / (1 - beta1**t) / root(v_hat, epsilon, inside)
        w = w - rate(t - 1) * (u + decay * w)
        yield w


def adamax(grad, w, rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
    m, u = 0 * w, 0 * w
    for t in range(1, STEPS + 1):
        g = grad(w)
        m = beta1 * m + (1 - beta1) * g
        u = np.maximum(beta2 * u, np.abs(g) + epsilon)
        w = w - rate(t - 1) / (1 - beta1**t) * m / u
        yield w


def nadam(grad, w, rate, beta1=0.9, beta2=0.999, epsilon=1e-8, inside=False, psi=4e-3):
    def weight(t):
        return beta1 if psi is None else beta1 * (1 - 0.5 * 0.96 ** (t * psi))

    m, v, product = 0 * w, 0 * w, 1.0
    for t in range(1, STEPS + 1):
        g = grad(w)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        product *= weight(t)
        ahead = weight(t + 1) * m / (1 - product * weight(t + 1))
        ahead = ahead + (1 - weight(t)) * g / (1 - product)
        w = w - rate(t - 1) * ahead / root(v / (1 - beta2**t), epsilon, inside)
        yield w


def radam(grad, w, rate, beta1=0.9, beta2=0.999, epsilon=1e-8, raw=True):
    m, v, longest = 0 * w, 0 * w, 2 / (1 - beta2) - 1
    for t in range(1, STEPS + 1):
        g = grad(w)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        u = m / (1 - beta1**t)
        if length > 5:
            u = u * np.sqrt(
                (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            )
            correction = np.sqrt(1 - beta2**t)
            u = u * correction / (np.sqrt(v) + (epsilon if raw else epsilon * correction))
        w = w - rate(t - 1) * u
        yield w


def lion(grad, w, rate, beta1=0.9, beta2=0.99, decay=0.0):
    m = 0 * w
    for t in range(STEPS):
        g = grad(w)
        u = np.sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g
        w = w - rate(t) * (u + decay * w)
        yield w


def lamb(grad, w, rate, beta1=0.9, beta2=0.999, epsilon=1e-6, decay=0.0):
    m, v = 0 * w, 0 * w
    for t in range(1, STEPS + 1):
        g = grad(w)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon) + decay * w
        w = w - rate(t - 1) * np.linalg.norm(w) / np.linalg.norm(u) * u
        yield w


def rms(x):
    return np.sqrt(np.mean(x**2))


def adafactor(
    grad, w, rate, exponent=0.8, epsilon=1e-30, floor=0.0, clip=1.0, scale=1e-3, momentum=0.0,
    factored=False,
):  # fmt: skip
    v = r = c = trace = 0.0
    for t in range(1, STEPS + 1):
        g, new = grad(w), t**-exponent
        square = g**2 + epsilon
        if factored:
            r = (1 - new) * r + new * square.mean(1)
            c = (1 - new) * c + new * square.mean(0)
            v = np.outer(r, c) / max(r.mean(), floor)
        else:
            v = (1 - new) * v + new * square
        u = g / np.maximum(np.sqrt(v), floor)
        u = rate(t - 1) * u / max(1, rms(u) / clip) * max(scale, rms(w))
        trace = momentum * trace + (1 - momentum) * u
        w = w - trace
        yield w


def schedule_free(grad, y, rate, beta=0.9, power=2.0, beta2=None, decay=0.0):
    x, z, v, total, largest = y, y, 0 * y, 0.0, 0.0
    for t in range(1, STEPS + 1):
        g = grad(y)
        if beta2 is not None:
            v = beta2 * v + (1 - beta2) * g**2
            g = g / (np.sqrt(v / (1 - beta2**t)) + 1e-8)
        z = z - rate(t - 1) * (g + decay * y)
        largest = max(largest, rate(t - 1))
        total = total + largest**power
        x = x + largest**power / total * (z - x)
        y = (1 - beta) * z + beta * x
        yield y


def lookahead(grad, w, rate, period=5, step_size=0.5):
    slow = w
    for t in range(1, STEPS + 1):
        w = w - rate(t - 1) * grad(w)
        if t % period == 0:
            share = step_size(t - 1) if callable(step_size) else step_size
            w = slow = slow + share * (w - slow)
        yield w


def rising(step):
    return 0.01 * (step + 1.0) / 30 * (step < 29) + 0.01 * (step >= 29)


def falling(step):
    return 1 - 0.7 * ((step + 1.0) / STEPS) ** 3


O = optimizers  # noqa: E741
CASES = [
    (O.sgd(0.005), sgd, 0.005, {}),
    (O.sgd(decaying), sgd, decaying, {}),
    (O.momentum(0.005), momentum, 0.005, {}),
    (O.momentum(decaying, decay=0.5), momentum, decaying, {"decay": 0.5}),
    (
        O.momentum(decaying, decay=0.5, rate_position="outside"),
        momentum,
        decaying,
        {"decay": 0.5, "inside": False},
    ),
    (
        O.nesterov(decaying, decay=0.7, rate_position="outside"),
        nesterov_outside,
        decaying,
        {"decay": 0.7},
    ),
    (O.adagrad(0.1), adagrad, 0.1, {}),
    (
        O.adagrad(decaying, initial_accumulator=0.1, epsilon=0.01),
        adagrad,
        decaying,
        {"first": 0.1, "epsilon": 0.01},
    ),
    (
        O.adagrad(0.1, epsilon=0.01, epsilon_position="outside"),
        adagrad,
        0.1,
        {"epsilon": 0.01, "inside": False},
    ),
    (O.adadelta(), adadelta, 1.0, {}),
    (
        O.adadelta(0.5, decay=0.8, epsilon=1e-4, gradient_epsilon=1e-2),
        adadelta,
        0.5,
        {"decay": 0.8, "epsilon": 1e-4, "of_gradient": 1e-2},
    ),
    (O.rmsprop(0.005), rmsprop, 0.005, {}),
    (
        O.rmsprop(decaying, decay=0.99, epsilon=0.01, epsilon_position="outside"),
        rmsprop,
        decaying,
        {"decay": 0.99, "epsilon": 0.01, "inside": False},
    ),
    (
        O.rmsprop(0.002, centered=True, epsilon=1e-3),
        rmsprop,
        0.002,
        {"centered": True, "epsilon": 1e-3},
    ),
    (
        O.rmsprop(decaying, epsilon=1e-2, centered=True, momentum=0.5, epsilon_position="outside"),
        rmsprop,
        decaying,
        {"epsilon": 1e-2, "centered": True, "velocity": 0.5, "inside": False},
    ),
    (
        O.rmsprop(decaying, momentum=0.5, rate_position="outside"),
        rmsprop,
        decaying,
        {"velocity": 0.5, "rate_inside": False},
    ),
    (O.adam(0.1), adam, 0.1, {}),
    (
        O.adam(0.1, beta1=0.8, beta2=0.9, epsilon=0.1),
        adam,
        0.1,
        {"beta1": 0.8, "beta2": 0.9, "epsilon": 0.1},
    ),
    (
        O.adam(decaying, epsilon=0.1, epsilon_position="outside"),
        adam,
        decaying,
        {"epsilon": 0.1, "inside": False},
    ),
    (O.adam(0.1, amsgrad=True, beta2=0.9), adam, 0.1, {"amsgrad": "raw", "beta2": 0.9}),
    (
        O.adam(0.1, amsgrad=True, maximum_of="corrected", beta2=0.9),
        adam,
        0.1,
        {"amsgrad": "corrected", "beta2": 0.9},
    ),
    (
        O.adamw(decaying, weight_decay=0.1, mask=None),
        adam,
        decaying,
        {"decay": 0.1, "inside": False},
    ),
    (
        O.decoupled_decay(O.adam(decaying), 0.1, mask=None),
        adam,
        decaying,
        {"decay": 0.1},
    ),
    (O.adamax(0.1), adamax, 0.1, {}),
    (
        O.adamax(decaying, beta1=0.8, beta2=0.9, epsilon=0.1),
        adamax,
        decaying,
        {"beta1": 0.8, "beta2": 0.9, "epsilon": 0.1},
    ),
    (O.nadam(0.01), nadam, 0.01, {}),
    (
        O.nadam(decaying, beta1=0.8, epsilon=0.1, epsilon_position="inside", momentum_decay=None),
        nadam,
        decaying,
        {"beta1": 0.8, "epsilon": 0.1, "inside": True, "psi": None},
    ),
    (O.nadam(0.01, momentum_decay=0.5), nadam, 0.01, {"psi": 0.5}),
    (O.radam(0.01), radam, 0.01, {}),
    (
        O.radam(decaying, beta1=0.8, beta2=0.99, epsilon=0.1),
        radam,
        decaying,
        {"beta1": 0.8, "beta2": 0.99, "epsilon": 0.1},
    ),
    (
        O.radam(0.01, epsilon=0.1, epsilon_added_to="corrected"),
        radam,
        0.01,
        {"epsilon": 0.1, "raw": False},
    ),
    (O.lamb(0.003, weight_decay=0.0), lamb, 0.003, {}),
    (
        O.lamb(decaying, beta1=0.8, beta2=0.9, epsilon=0.1, weight_decay=0.1, mask=None),
        lamb,
        decaying,
        {"beta1": 0.8, "beta2": 0.9, "epsilon": 0.1, "decay": 0.1},
    ),
    (O.adafactor(), adafactor, lambda step: min(0.01, (step + 1) ** -0.5), {}),
    (
        O.adafactor(
            decaying,
            decay_exponent=0.5,
            epsilon=0.1,
            epsilon_position="floor",
            clip=0.7,
            parameter_scale=5.0,
            momentum=0.8,
        ),
        adafactor,
        decaying,
        {"exponent": 0.5, "epsilon": 0.0, "floor": 0.1, "clip": 0.7, "scale": 5.0, "momentum": 0.8},
    ),
    (O.schedule_free(O.sgd(0.005)), schedule_free, 0.005, {}),
    (
        O.schedule_free(
            O.adamw(rising, beta1=0.0, weight_decay=0.1, mask=None), beta=0.7, weight_power=1.0
        ),
        schedule_free,
        rising,
        {"beta": 0.7, "power": 1.0, "beta2": 0.999, "decay": 0.1},
    ),
    (O.schedule_free(O.sgd(decaying), beta=0.0), schedule_free, decaying, {"beta": 0.0}),
    (O.lookahead(O.sgd(0.005)), lookahead, 0.005, {}),
    (
        O.lookahead(O.sgd(decaying), period=3, step_size=0.8),
        lookahead,
        decaying,
        {"period": 3, "step_size": 0.8},
    ),
    (
        O.lookahead(O.sgd(decaying), period=3, step_size=falling),
        lookahead,
        decaying,
        {"period": 3, "step_size": falling},
    ),
    (O.lion(0.003), lion, 0.003, {}),
    (
        O.lion(decaying, beta1=0.8, beta2=0.9, weight_decay=0.1, mask=None),
        lion,
        decaying,
        {"beta1": 0.8, "beta2": 0.9, "decay": 0.1},
    ),
]


def stepped(formula, problem, rate, settings):
    schedule = rate if callable(rate) else lambda step: rate
    gradient = problem.gradient
    return np.stack(list(formula(lambda w: gradient(np, w), problem.start, schedule, **settings)))


def name_of(case):
    """The rule and its settings; a function by its name, whose address differs by process."""
    settings = {name: getattr(value, "__name__", value) for name, value in case[3].items()}
    return f"{case[1].__name__} {settings}"


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_equals_the_formula(case, problem):
    optimizer, formula, rate, settings = case
    problem = PROBLEMS[problem]
    expected = stepped(formula, problem, rate, settings)
    moved = np.abs(expected[-1] - problem.start).max()
    assert moved > 1e-2
    assert relative_error(trajectory(optimizer, problem), expected) < TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_equals_the_formula_to_the_rounding_of_float64(case):
    optimizer, formula, rate, settings = case
    problem = PROBLEMS["quadratic"]
    expected = stepped(formula, problem, rate, settings)
    with jax.enable_x64(True):
        path = trajectory(optimizer, problem, dtype=jnp.float64)
    # Ten thousand times finer than float32's; RAdam's series, cut for float32, needs 3e-10.
    assert relative_error(path, expected) < 1e-9


@pytest.mark.parametrize(
    ("ours", "settings"),
    [
        ({}, {}),
        ({"epsilon": 0.01, "epsilon_position": "floor"}, {"epsilon": 0.0, "floor": 0.01}),
        ({"factored_axes": "last", "clip": None}, {"clip": np.inf}),
    ],
)
def test_adafactor_of_a_matrix_keeps_its_rows_and_columns(ours, settings):
    optimizer = O.adafactor(decaying, factored_from=4, **ours)
    expected = stepped(adafactor, MATRIX, decaying, {"factored": True, **settings})
    assert relative_error(trajectory(optimizer, MATRIX), expected) < TOLERANCE
    shapes = [leaf.shape for leaf in jax.tree.leaves(optimizer.init(MATRIX.start)) if leaf.shape]
    assert sorted(shapes) == [(4,), (6,)]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    ("rate", "position"), [(0.005, "inside"), (decaying, "inside"), (0.005, "outside")]
)
def test_nesterov_is_the_lectures_look_ahead(problem, rate, position):
    problem = PROBLEMS[problem]
    expected = stepped(nesterov, problem, rate, {"decay": 0.8})
    path = trajectory(
        optimizers.nesterov(rate, decay=0.8, rate_position=position),
        problem,
        lambda w, state: optimizers.nesterov_theta(w, state, decay=0.8),
    )
    assert relative_error(path, expected) < TOLERANCE


def test_bias_correction_is_exact():
    count = np.arange(1, 5000)
    for decay in (0.0, 0.5, 0.9, 0.999, 0.99999):
        exact = 1 / -np.expm1(count * np.log(np.float64(decay))) if decay else np.ones(len(count))
        # Eight roundings: the product, the quotient, and a few in XLA's expm1.
        np.testing.assert_allclose(
            bias_correction(decay, jnp.asarray(count, jnp.int32)), exact, rtol=8 * 2**-24
        )


@pytest.mark.parametrize("beta2", [0.5, 0.9, 0.99, 0.999, 0.9999])
def test_the_length_of_the_average_is_exact(beta2):
    count = np.arange(1, 5000)
    # In float64 the formula as it stands loses no more than 2,000 times its own rounding.
    with np.errstate(over="ignore"):
        exact = 2 / (1 - beta2) - 1 - 2 * count / np.expm1(-count * np.log(beta2))
    lengths = length_of_average(beta2, jnp.asarray(count, jnp.int32))
    # A dozen roundings.
    np.testing.assert_allclose(lengths, exact, rtol=12 * 2**-24)

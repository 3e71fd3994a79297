"""The table of conventions in docs/optimizers.md against PyTorch's optimizers."""

import conventions
import numpy as np
import optax
import pytest
from problems import MATRIX, PROBLEMS, STEPS, for_leaf, relative_error, trajectory

from jaxdl import optimizers

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

PAIRS = [row[1:3] for row in conventions.rows() if row[2]] + [
    (
        "muon(rate, momentum=0.8, nesterov=False, scaling='rms', coefficients=(2.0, -1.5, 0.5))",
        "Muon(lr=rate, momentum=0.8, nesterov=False, adjust_lr_fn='match_rms_adamw',"
        " ns_coefficients=(2.0, -1.5, 0.5), weight_decay=0.0)",
    ),
    (
        "decoupled_decay(adafactor(rate, decay_exponent=0.5, epsilon=1e-3,"
        " epsilon_position='floor', clip=1.1, parameter_scale=0.01, factored_axes='last',"
        " factored_from=1), 0.1, mask=None)",
        "Adafactor(lr=rate, beta2_decay=-0.5, eps=(1e-3, 0.01), d=1.1, weight_decay=0.1)",
    ),
    (
        "adam(rate, beta1=0.8, beta2=0.95, epsilon=0.01, epsilon_position='outside')",
        "Adam(lr=rate, betas=(0.8, 0.95), eps=0.01)",
    ),
    (
        "adagrad(rate, initial_accumulator=0.3, epsilon=0.01, epsilon_position='outside')",
        "Adagrad(lr=rate, initial_accumulator_value=0.3, eps=0.01)",
    ),
    ("adadelta(rate, decay=0.8, epsilon=1e-4)", "Adadelta(lr=rate, rho=0.8, eps=1e-4)"),
    (
        "rmsprop(rate, epsilon=0.01, epsilon_position='outside', centered=True, momentum=0.5,"
        " rate_position='outside')",
        "RMSprop(lr=rate, alpha=0.9, eps=0.01, centered=True, momentum=0.5)",
    ),
    (
        "adamax(rate, beta1=0.8, beta2=0.9, epsilon=0.01)",
        "Adamax(lr=rate, betas=(0.8, 0.9), eps=0.01)",
    ),
    (
        "nadam(rate, beta1=0.8, beta2=0.95, epsilon=0.01, momentum_decay=0.1)",
        "NAdam(lr=rate, betas=(0.8, 0.95), eps=0.01, momentum_decay=0.1)",
    ),
    (
        "radam(rate, beta1=0.8, beta2=0.95, epsilon=0.01)",
        "RAdam(lr=rate, betas=(0.8, 0.95), eps=0.01)",
    ),
    (
        "decoupled_decay(nadam(rate), 0.1, mask=None)",
        "NAdam(lr=rate, weight_decay=0.1, decoupled_weight_decay=True)",
    ),
    (
        "decoupled_decay(radam(rate), 0.1, mask=None)",
        "RAdam(lr=rate, weight_decay=0.1, decoupled_weight_decay=True)",
    ),
    (
        "optax.chain(l2(0.1, mask=None), momentum(rate, rate_position='outside'))",
        "SGD(lr=rate, momentum=0.9, weight_decay=0.1)",
    ),
]


def stepped_by_torch(expression, problem, rate, schedule=None):
    """PyTorch's own optimizer in float64, on the same gradients."""
    parameter = torch.nn.Parameter(torch.tensor(problem.start))
    name, arguments = expression.split("(", 1)
    optimizer = eval(
        f"{name}([parameter], {arguments}",
        vars(torch.optim),
        {"parameter": parameter, "rate": rate},
    )
    path = []
    for step in range(STEPS):
        if schedule is not None:
            optimizer.param_groups[0]["lr"] = schedule(step)
        parameter.grad = torch.tensor(problem.gradient(np, parameter.detach().numpy()))
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    return np.stack(path)


def decaying(step):
    return 0.001 / (1 + 0.1 * step)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[1])
def test_equals_torch(pair, problem):
    ours, theirs = pair
    if theirs.startswith("Muon"):
        pytest.skip("PyTorch's Muon takes matrices alone")
    problem = PROBLEMS[problem]
    for rate, schedule in ((0.001, None), (decaying, decaying)):
        expected = stepped_by_torch(theirs, problem, 0.001, schedule)
        optimizer = eval(ours, vars(optimizers) | {"optax": optax}, {"rate": rate})
        assert relative_error(trajectory(optimizer, problem), expected) < 1e-5


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[1])
def test_equals_torch_on_a_matrix(monkeypatch, pair):
    # PyTorch's Muon rounds to bfloat16 in its iteration, which hides all that could differ. What
    # takes its place must be a copy: the iteration overwrites it.
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.double().clone())
    ours, theirs = pair
    for rate, schedule in ((0.001, None), (decaying, decaying)):
        expected = stepped_by_torch(theirs, MATRIX, 0.001, schedule)
        optimizer = eval(ours, vars(optimizers) | {"optax": optax}, {"rate": rate})
        # A weight of PyTorch's has its outputs first.
        path = trajectory(for_leaf(optimizer, "weight"), MATRIX)
        assert relative_error(path, expected) < 1e-5


def test_torchs_own_rounding_of_muon_is_small():
    expected = stepped_by_torch("Muon(lr=rate, weight_decay=0.0)", MATRIX, 0.001)
    path = trajectory(for_leaf(optimizers.muon(0.001), "weight"), MATRIX)
    # bfloat16 rounds at 2^-9; the iteration of five steps multiplies what is rounded first by
    # at most 3.4445^5 = 485 and forgets it where it converges. Steps are of size 0.001.
    moved = np.abs(path - expected).max()
    assert 0 < moved < 0.1 * np.abs(expected[-1] - MATRIX.start).max()


@pytest.mark.parametrize(("value", "norm"), [(None, 0.7), (0.3, None), (None, 50.0)])
def test_clipping_equals_torchs(value, norm):
    gradient = np.random.default_rng(0).normal(size=20)
    parameter = torch.nn.Parameter(torch.zeros(20, dtype=torch.float64))
    parameter.grad = torch.tensor(gradient)
    if value is not None:
        torch.nn.utils.clip_grad_value_([parameter], value)
        clip = optimizers.clip_by_value(value)
    else:
        torch.nn.utils.clip_grad_norm_([parameter], norm)
        clip = optimizers.clip_by_global_norm(norm)
    updates, _ = clip.update(np.float32(gradient), clip.init(None))
    # PyTorch adds 1e-6 to the norm, which is about 4.
    np.testing.assert_allclose(updates, parameter.grad.numpy(), rtol=1e-6)


def test_averages_equal_torchs():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    path = np.cumsum(np.random.default_rng(0).normal(size=(20, 3)), 0)
    for link, averaging in (
        (optimizers.ema(0.9), {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}),
        (optimizers.swa(), {}),
    ):
        model = torch.nn.Linear(3, 1, bias=False).double()
        averaged = AveragedModel(model, **averaging)
        params = np.zeros(3, np.float32)
        state = link.init(params)
        for point in path:
            with torch.no_grad():
                model.weight[:] = torch.tensor(point)
            averaged.update_parameters(model)
            _, state = link.update(np.float32(point) - params, state, params)
            params = np.float32(point)
        expected = averaged.module.weight.detach().numpy()[0]
        # Twenty roundings of numbers of about this size.
        tolerance = 20 * 2**-24 * np.abs(path).max()
        np.testing.assert_allclose(
            optimizers.averaged_parameters(state), expected, rtol=0, atol=tolerance
        )

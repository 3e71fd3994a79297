"""The lecture's Fashion-MNIST step against the same step in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data, initializers, losses, metrics, models, optimizers, training

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

STEPS, BATCH = 50, 100


@pytest.fixture(scope="module")
def images():
    """The first batches of Fashion-MNIST, if it is here; a test downloads nothing."""
    if not {entry.name: entry.ready for entry in data.available()}["fashion_mnist"]:
        pytest.skip("Fashion-MNIST is not on this machine: see `jaxdl data list`")
    return data.load("fashion_mnist").train


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_fifty_steps_from_the_same_weights_and_batches(images, optimizer):
    ours, theirs = {
        "sgd": (optimizers.sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        "momentum": (
            optimizers.momentum(0.05, rate_position="outside"),
            lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
        ),
        "adam": (
            optimizers.adam(1e-3, epsilon_position="outside"),
            lambda p: torch.optim.Adam(p, 1e-3),
        ),
    }[optimizer]
    model = models.MLP(
        [128, 10], kernel_init=initializers.torch_kernel(), bias_init=initializers.torch_bias
    )
    state = training.init_state(jax.random.key(0), model, ours, jnp.zeros((1, 28, 28, 1)))
    step = jax.jit(training.make_train_step(model, ours, losses.cross_entropy, [metrics.accuracy]))
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )
    for layer, linear in (("dense_0", network[1]), ("dense_1", network[3])):
        linear.weight.data = torch.tensor(np.asarray(state.params[layer]["kernel"]).T.copy())
        linear.bias.data = torch.tensor(np.asarray(state.params[layer]["bias"]))
    torch_optimizer = theirs(network.parameters())

    measured = np.empty((STEPS, 2, 2))
    for i in range(STEPS):
        rows = slice(i * BATCH, (i + 1) * BATCH)
        batch = {"inputs": images.inputs[rows], "targets": images.targets[rows]}
        state, got = step(state, batch)
        torch_optimizer.zero_grad()
        outputs = network(torch.tensor(batch["inputs"]).float() / 255)
        targets = torch.tensor(batch["targets"]).long()
        loss = torch.nn.functional.cross_entropy(outputs, targets)
        loss.backward()
        torch_optimizer.step()
        accuracy = (outputs.argmax(1) == targets).float().mean()
        measured[i] = [[got["loss"], loss.item()], [got["accuracy"], accuracy.item()]]
    # Rounding alone parts the two: 1e-7 a step, amplified as the parameters move apart.
    np.testing.assert_allclose(measured[:, 0, 0], measured[:, 0, 1], rtol=1e-4)
    assert np.abs(measured[:, 1, 0] - measured[:, 1, 1]).max() <= 1.01 / BATCH

"""Whole networks with PyTorch's variables: outputs, and the variables back in PyTorch."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import activations, interop, models
from jaxdl.calling import call_model
from jaxdl.layers import BatchNorm, MultiHeadAttention, PReLU

torch = pytest.importorskip("torch")
torch_twins = pytest.importorskip("torch_twins")
pytestmark = pytest.mark.parity


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def to_torch(x):
    """Channels first; tokens are long."""
    if x.dtype.kind == "i":
        return torch.tensor(x).long()
    return torch.tensor(np.moveaxis(x, -1, 1) if x.ndim == 4 else x)


def outputs_of(network, x):
    with torch.no_grad():
        return network(to_torch(x)).numpy()


def agree(model, network, x, *, depth, terms, exact=True, **settings):
    """Outputs in both precisions, the variables back in PyTorch, and the round trip, bit for bit.

    A layer adds up to `terms` products, in another order than PyTorch does. Their rounding errors
    are 2^-24 of the sum's size each and add like a random walk, sqrt(terms) of them a layer; norms,
    activations and products with scales add a few more. Ten times that is the most of the outputs.
    Doubles have 2^-53. An error of the conversion is of the outputs' own size.
    """
    network = torch_twins.redraw(network)
    for dtype, unit in ((np.float64, 2.0**-53), (np.float32, 2.0**-24)):
        network = network.to(torch.float64 if dtype == np.float64 else torch.float32)
        inputs = x if x.dtype.kind == "i" else x.astype(dtype)
        state = network.state_dict()
        with jax.enable_x64(dtype == np.float64):
            variables = interop.from_state_dict(model, state, inputs, dtype=dtype, **settings)
            apply = jax.jit(functools.partial(call_model, model, train=False))
            outputs = np.asarray(apply(variables, jnp.asarray(inputs))[0])
            back = interop.to_state_dict(model, variables, inputs, like=state, **settings)
            again = interop.from_state_dict(model, back, inputs, dtype=dtype, **settings)
        assert outputs.dtype == dtype
        expected = outputs_of(network, inputs)
        error = np.abs(outputs - expected).max() / np.abs(expected).max()
        assert error < 10 * depth * terms**0.5 * unit, error

        jax.tree.map(np.testing.assert_array_equal, again, variables)
        assert list(back) == list(state)
        for name, value in back.items():
            assert value.shape == tuple(state[name].shape)
            if exact:
                np.testing.assert_array_equal(value, state[name].numpy(), err_msg=name)
        # The network itself takes them, and is the same function.
        before = outputs_of(network, inputs)
        with torch.no_grad():
            for tensor in state.values():
                tensor.zero_()
        network.load_state_dict({name: torch.from_numpy(each) for name, each in back.items()})
        after = outputs_of(network, inputs)
        assert np.abs(after - before).max() <= (0 if exact else 10 * depth * unit)


def test_an_mlp_on_images():
    agree(models.MLP([8, 8, 5], norm=BatchNorm), torch_twins.mlp(), draw(1, 3, 4, 6, 3), depth=3,
          terms=72)  # fmt: skip


def test_a_convolutional_network_flattens_its_image():
    model = models.ConvNet([4, 6], [7, 5], norm=BatchNorm)
    agree(model, torch_twins.ConvNet(), draw(1, 2, 12, 8, 3), depth=4, terms=36)


def test_vgg_with_biases_and_two_dense_layers():
    channels = (2, 3, 4, 5, 6)
    model = models.VGG(11, features=(9, 5), channels=channels)
    # 64 x 64 images: 2 x 2 positions are left to flatten.
    agree(model, torch_twins.vgg11(channels, (9, 5)), draw(1, 2, 64, 64, 3), depth=10, terms=54)


def test_resnet_18_with_torchvisions_names():
    model = models.ResNet(18, norm=BatchNorm)
    agree(model, torch_twins.ResNet18(), draw(1, 2, 8, 8, 3), depth=18, terms=9 * 512)


@pytest.mark.parametrize("blocks", ["plain", "scan"])
@pytest.mark.parametrize("position", ["before", "after"])
def test_a_transformer(position, blocks):
    model = models.Transformer(
        11, features=8, layers=3, heads=2, hidden=12, length=9, norm_position=position,
        blocks=blocks, activation=activations.gelu,
    )  # fmt: skip
    tokens = np.random.default_rng(1).integers(0, 11, (2, 7)).astype(np.int32)
    network = torch_twins.Transformer(norm_first=position == "before")
    # Each block is two attentions' products, two softmaxes' worth of sums and two dense layers.
    agree(model, network, tokens, depth=20, terms=12)


def test_a_tied_head_is_one_table():
    model = models.Transformer(
        11, features=8, layers=3, heads=2, hidden=12, length=9, tied_head=True,
        activation=activations.gelu,
    )  # fmt: skip
    tokens = np.random.default_rng(1).integers(0, 11, (2, 7)).astype(np.int32)
    agree(model, torch_twins.Transformer(norm_first=True, tied=True), tokens, depth=20, terms=12)


class Recurrent(nn.Module):
    cell: type

    @nn.compact
    def __call__(self, x):
        for width in (6, 5):
            x = nn.RNN(self.cell(width, param_dtype=x.dtype))(x)
        return nn.Dense(3)(x[:, -1])


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (nn.OptimizedLSTMCell, "LSTM"),
        (nn.LSTMCell, "LSTM"),
        (nn.GRUCell, "GRU"),
        (nn.SimpleCell, "RNN"),
    ],
)
def test_recurrences(cell, kind):
    # Two biases become one, so PyTorch gets its own back only in their sum.
    network = torch_twins.Recurrent(getattr(torch.nn, kind))
    agree(Recurrent(cell), network, draw(1, 2, 7, 4), depth=15, terms=12, exact=False)


class BothWays(nn.Module):
    """Two layers of LSTMs, each forwards and backwards."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            forward, backward = (nn.RNN(nn.LSTMCell(5)) for _ in range(2))
            x = nn.Bidirectional(forward, backward)(x)
        return x


def test_layers_of_one_recurrence_in_both_directions():
    network = torch.nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True)
    x = np.float32(draw(1, 2, 7, 4))
    torch_twins.redraw(network)
    cells = ("", "l0_reverse", "l1", "l1_reverse")
    names = {f"LSTMCell_{number}": cell for number, cell in enumerate(cells)}

    def named(path):
        cell, _, gate = path.partition("/")
        return f"{names[cell]}.{gate}".removeprefix(".")

    for given in (None, named):
        variables = interop.from_state_dict(BothWays(), network.state_dict(), x, names=given)
        outputs = jax.jit(BothWays().apply)(variables, x)
        with torch.no_grad():
            expected = network(torch.tensor(x))[0].numpy()
        # Two recurrences of 7 steps, with sums of up to 15 products.
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=10 * 14 * 15**0.5 * 2.0**-24)


class Attending(nn.Module):
    """Flax's attention from one sequence to another."""

    @nn.compact
    def __call__(self, queries, keys):
        return nn.MultiHeadDotProductAttention(2, name="flax")(queries, keys)


class OurAttending(nn.Module):
    @nn.compact
    def __call__(self, queries, keys):
        return MultiHeadAttention(2, name="ours")(queries, keys, train=False)


@pytest.mark.parametrize("model", [Attending(), OurAttending()])
@pytest.mark.parametrize("width", [8, 6])
def test_attention_from_one_sequence_to_another(model, width):
    cross = {} if width == 8 else {"kdim": width, "vdim": width}
    network = torch.nn.MultiheadAttention(8, 2, batch_first=True, **cross)
    torch_twins.redraw(network)
    queries, keys = (np.float32(draw(seed, 2, 5, size)) for seed, size in ((1, 8), (2, width)))
    variables = interop.from_state_dict(model, network.state_dict(), (queries, keys))
    outputs = model.apply(variables, queries, keys)
    with torch.no_grad():
        expected = network(*(torch.tensor(each) for each in (queries, keys, keys)))[0].numpy()
    # Three products of 8 terms one after the other.
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=10 * 3 * 8**0.5 * 2.0**-24)
    back = interop.to_state_dict(model, variables, (queries, keys), like=network.state_dict())
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(back[name], value.numpy())


class Convolution(nn.Module):
    """One layer of images, sequences or volumes, by its settings."""

    kind: type
    settings: tuple

    @nn.compact
    def __call__(self, x):
        return self.kind(**dict(self.settings))(x)


def pair(window, padding, stride, transpose_kernel=None, **settings):
    named = {"features": 6, "kernel_size": window, "strides": (stride,) * len(window), **settings}
    if transpose_kernel is None:
        return Convolution(
            nn.Conv, tuple({**named, "padding": [(padding, padding)] * len(window)}.items())
        )
    # PyTorch pads what a convolution with this padding would have read.
    padded = [(size - 1 - padding,) * 2 for size in window]
    named |= {"padding": padded, "transpose_kernel": transpose_kernel}
    return Convolution(nn.ConvTranspose, tuple(named.items()))


LAYERS = {
    "conv": (pair((3, 2), 1, 2), lambda: torch.nn.Conv2d(4, 6, (3, 2), 2, 1)),
    "groups": (
        pair((3, 3), 1, 1, feature_group_count=2),
        lambda: torch.nn.Conv2d(4, 6, 3, 1, 1, groups=2),
    ),
    "dilated": (
        pair((3, 3), 2, 1, kernel_dilation=(2, 2)),
        lambda: torch.nn.Conv2d(4, 6, 3, 1, 2, dilation=2),
    ),
    **{
        f"transposed {stride} {padding} {flag}": (
            pair((3, 4), padding, stride, transpose_kernel=flag),
            lambda stride=stride, padding=padding: torch.nn.ConvTranspose2d(
                4, 6, (3, 4), stride, padding
            ),
        )
        for stride in (1, 2)
        for padding in (0, 1)
        for flag in (False, True)
    },
}


@pytest.mark.parametrize("name", LAYERS)
def test_convolutions(name):
    model, network = LAYERS[name][0], torch_twins.redraw(LAYERS[name][1]())
    x = np.float32(draw(1, 2, 5, 6, 4))
    variables = interop.from_state_dict(model, network.state_dict(), x)
    outputs = np.moveaxis(np.asarray(model.apply(variables, x)), -1, 1)
    # Up to 48 products a sum.
    np.testing.assert_allclose(
        outputs, outputs_of(network, x), rtol=0, atol=10 * 48**0.5 * 2.0**-24
    )
    back = interop.to_state_dict(model, variables, x, like=network.state_dict())
    np.testing.assert_array_equal(back["weight"], network.weight.detach().numpy())


class Sequence(nn.Module):
    """A convolution over time, flattened, with names given in setup."""

    def setup(self):
        self.over_time = nn.Conv(6, (3,), padding=1)
        self.slope = PReLU(per_feature=True)
        self.one_slope = nn.PReLU()
        self.groups = nn.GroupNorm(2, epsilon=1e-5)
        self.norm = nn.LayerNorm(epsilon=1e-5)
        self.root = nn.RMSNorm(epsilon=1e-5)
        self.out = nn.DenseGeneral((3, 2))

    def __call__(self, x):
        x = self.groups(self.one_slope(self.over_time(x)))
        x = self.slope(self.norm(x.reshape(x.shape[0], -1)))
        return self.out(self.root(x)).reshape(x.shape[0], -1)


class TorchSequence(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(4, 6, 3, padding=1)
        self.leak = torch.nn.PReLU()
        self.groups = torch.nn.GroupNorm(2, 6)
        self.norm = torch.nn.LayerNorm(30)
        self.leaks = torch.nn.PReLU(30)
        self.root = torch.nn.RMSNorm(30, eps=1e-5)
        self.fc = torch.nn.Linear(30, 6)

    def forward(self, x):
        x = self.groups(self.leak(self.conv(x.transpose(1, 2))))
        return self.fc(self.root(self.leaks(self.norm(x.flatten(1)))))


def test_everything_that_sees_a_flattened_sequence_of_a_convolution():
    agree(Sequence(), TorchSequence(), draw(1, 3, 5, 4), depth=6, terms=30)


class AutoEncoder(nn.Module):
    """An image becomes a vector, and the vector an image."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(nn.Conv(4, (3, 3), padding=1)(x)).reshape(x.shape[0], -1)
        x = BatchNorm()(nn.Dense(3 * 4 * 5)(nn.Dense(7)(x)), train=train)
        x = nn.relu(x).reshape(-1, 3, 4, 5)
        # A window of 4 at stride 2 and PyTorch's padding of 1 doubles the image.
        return nn.ConvTranspose(2, (4, 4), (2, 2), padding=[(2, 2)] * 2)(x)


class TorchAutoEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.encode = torch.nn.Linear(5 * 6 * 4, 7)
        self.decode = torch.nn.Linear(7, 60)
        self.norm = torch.nn.BatchNorm1d(60)
        self.out = torch.nn.ConvTranspose2d(5, 2, 4, 2, 1)

    def forward(self, x):
        x = self.norm(self.decode(self.encode(torch.relu(self.conv(x)).flatten(1))))
        image = self.out(torch.relu(x).view(-1, 5, 3, 4))
        return image.movedim(1, -1)


def test_an_autoencoder_flattens_an_image_and_makes_one():
    agree(AutoEncoder(), TorchAutoEncoder(), draw(1, 3, 5, 6, 3), depth=5, terms=120)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_tensors_of_every_dtype_that_need_gradients_and_have_strides(dtype):
    weight = torch.tensor(draw(1, 3, 2)).to(getattr(torch, dtype)).t().requires_grad_()
    state = {"weight": weight, "bias": torch.nn.Parameter(torch.zeros(2))}
    kernel = interop.from_state_dict(nn.Dense(2), state, np.ones((1, 3), np.float32))["params"][
        "kernel"
    ]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, weight.detach().t().float().numpy())


def test_a_file_of_pytorch_and_what_it_may_not_hold(tmp_path):
    network = torch.nn.Linear(3, 2)
    x = np.ones((1, 3), np.float32)
    torch.save(network.state_dict(), tmp_path / "right.pt")
    kernel = interop.from_state_dict(nn.Dense(2), tmp_path / "right.pt", x)["params"]["kernel"]
    np.testing.assert_array_equal(kernel, network.weight.detach().numpy().T)
    torch.save(network, tmp_path / "network.pth")
    with pytest.raises(ValueError, match=r"(?s)got network.pth.*torch.save\(network.state_dict"):
        interop.from_state_dict(nn.Dense(2), tmp_path / "network.pth", x)
    with pytest.raises(TypeError, match=r"pass network.state_dict\(\) of it"):
        interop.from_state_dict(nn.Dense(2), network, x)
    with pytest.raises(TypeError, match="dense tensors with values, got 'weight'"):
        interop.from_state_dict(nn.Dense(2), torch.nn.Linear(3, 2, device="meta").state_dict(), x)


def test_a_table_that_is_tied_there_must_be_one_here():
    model = models.Transformer(11, features=8, layers=1, heads=2, positions=None, outputs=11)
    tokens = np.zeros((1, 3), np.int32)
    variables = model.init(jax.random.key(0), jnp.asarray(tokens), train=False)
    like = interop.to_state_dict(model, variables, tokens)
    like["head.weight"] = like["embed.weight"]
    with pytest.raises(ValueError, match=r"head.weight and embed.weight must be equal"):
        interop.to_state_dict(model, variables, tokens, like=like)

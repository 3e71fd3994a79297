"""Which layers see a flattened image, and in which order PyTorch has its features."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import interop
from jaxdl.interop.flattening import UNKNOWN, channels_first
from jaxdl.layers import BatchNorm

HEIGHT, WIDTH, CHANNELS = 2, 3, 4
FEATURES = HEIGHT * WIDTH * CHANNELS
IMAGES = np.ones((5, HEIGHT, WIDTH, CHANNELS), np.float32)
# Their weight counts its inputs, in PyTorch's order: the value of a kernel's row is the place of
# its input there.
COUNTED = {"weight": np.arange(FEATURES, dtype=np.float32)[None], "bias": np.zeros(1, np.float32)}
# Written out: the input (h, w, c) here is the input (c, h, w) there.
PLACES = np.array(
    [
        c * HEIGHT * WIDTH + h * WIDTH + w
        for h in range(HEIGHT)
        for w in range(WIDTH)
        for c in range(CHANNELS)
    ]
)


class Flat(nn.Module):
    """A dense layer on what a function makes of the images."""

    function: object

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(1, name="dense")(self.function(x))


def flat(x):
    return x.reshape(x.shape[0], -1)


def kernel_of(function, inputs=IMAGES, state=COUNTED, **settings):
    names = {"dense": ""}
    variables = interop.from_state_dict(Flat(function), state, inputs, names=names, **settings)
    return np.asarray(variables["params"]["dense"]["kernel"])[:, 0]


@pytest.mark.parametrize(
    "function",
    [
        flat,
        jnp.ravel,
        lambda x: jnp.tanh(flat(2 * x)) + 1,
        lambda x: flat(nn.max_pool(x, (1, 1))),
        lambda x: jax.jit(flat)(x),
        lambda x: jax.checkpoint(lambda y: flat(jnp.sin(y)))(x),
        lambda x: flat(x)[:, None],
        lambda x: jnp.where(flat(x) > 0, flat(x), 0),
        lambda x: jax.lax.cond(x.sum() > 0, flat, lambda y: flat(2 * y), x),
        lambda x: flat(x) / jnp.linalg.norm(flat(x), axis=-1, keepdims=True),
        lambda x: flat((x - x.mean(-1, keepdims=True)) * jnp.arange(CHANNELS) + x.mean()),
    ],
)
def test_a_flattened_image_has_its_channels_first_there(function):
    np.testing.assert_array_equal(
        kernel_of(function, IMAGES[0] if function is jnp.ravel else IMAGES), PLACES
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda x: flat(x.transpose(0, 3, 1, 2)),  # channels first already
        lambda x: x.mean((1, 2)).repeat(HEIGHT * WIDTH, -1),
        lambda x: flat(x.reshape(5, HEIGHT * WIDTH, CHANNELS)),  # vectors of a sequence
        lambda x: flat(x[:, 0, 0])[:, jnp.arange(FEATURES) % CHANNELS],
        lambda x: flat(x.mean(3)).repeat(CHANNELS, -1),
        lambda x: flat(x.mean((1, 2)).repeat(HEIGHT * WIDTH, -1).reshape(x.shape)),
    ],
)
def test_what_is_no_flattened_image_keeps_its_order(function):
    np.testing.assert_array_equal(kernel_of(function), np.arange(FEATURES))


def test_an_image_of_one_channel_or_one_position_has_one_order():
    for shape in ((5, 4, 6, 1), (5, 1, 1, FEATURES), (5, 4, 6)):
        inputs = np.ones(shape, np.float32)
        np.testing.assert_array_equal(kernel_of(flat, inputs), np.arange(FEATURES))


def test_features_beside_an_image_keep_their_places():
    state = {"weight": np.arange(FEATURES + 2, dtype=np.float32)[None], "bias": np.zeros(1)}
    kernel = kernel_of(lambda x: jnp.concatenate([x[:, 0, 0, :2], flat(x)], -1), state=state)
    np.testing.assert_array_equal(kernel, [0, 1, *(2 + PLACES)])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: flat(x)[:, ::-1],
        lambda x: jnp.sort(flat(x)),
        lambda x: flat(x) + flat(x.transpose(0, 2, 1, 3)),
        lambda x: x.reshape(5, 1, FEATURES),  # patches, whose order in PyTorch is the network's own
        lambda x: jnp.concatenate([flat(x)[:, 1:], flat(x)[:, :1]], -1),
        lambda x: flat(x.reshape(5, 2, 6, 2)),
        lambda x: flat(x @ jnp.ones((CHANNELS, CHANNELS))),  # channels may be last there, too
        lambda x: flat(x + x.reshape(5, WIDTH, HEIGHT, CHANNELS).transpose(0, 2, 1, 3)),
    ],
)
def test_an_order_that_the_program_does_not_show_is_asked_for(function):
    with pytest.raises(ValueError, match=r"order of the input features of dense .* flattened="):
        kernel_of(function)
    same = kernel_of(function, flattened={"dense": None})
    np.testing.assert_array_equal(same, np.arange(FEATURES))
    first = kernel_of(function, flattened={"dense": (HEIGHT, WIDTH, CHANNELS)})
    np.testing.assert_array_equal(first, PLACES)


def test_a_layer_that_is_shared_must_see_one_order():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.Dense(1, name="dense")
            return dense(flat(x)) + dense(flat(x.transpose(0, 3, 1, 2)))

    with pytest.raises(ValueError, match="order of the input features of dense"):
        interop.from_state_dict(Shared(), COUNTED, IMAGES)


def test_norms_of_flattened_features_move_with_them():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return BatchNorm(name="norm")(flat(x), train=train)

    there = {name: np.arange(FEATURES) + start for start, name in enumerate(
        ("weight", "bias", "running_mean", "running_var"))}  # fmt: skip
    found = interop.from_state_dict(Normed(), there, IMAGES)
    arrays = [*found["params"]["norm"].values(), *found["batch_stats"]["norm"].values()]
    starts = {"scale": 0, "bias": 1, "mean": 2, "var": 3}
    names = [*found["params"]["norm"], *found["batch_stats"]["norm"]]
    for name, array in zip(names, arrays, strict=True):
        np.testing.assert_array_equal(array, PLACES + starts[name])

    class Grouped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.GroupNorm(2, name="norm")(flat(x))

    there = {name: there[name] for name in ("weight", "bias")}
    with pytest.raises(ValueError, match="groups would hold other features"):
        interop.from_state_dict(Grouped(), there, IMAGES)


@pytest.mark.parametrize(
    ("flattened", "error", "words"),
    [
        ({"dens": None}, ValueError, r"name layers of the model, \['dense'\], got \['dens'\]"),
        ({"dense": (2, 2, 4)}, ValueError, "as its layer has features, 24, got 16"),
        ({"dense": 24}, TypeError, "axes .height, width, channels., got 24 for dense"),
        ({"dense": (2, 0, 4)}, ValueError, "flattened of dense must be at least 1, got 0"),
        ([], TypeError, "flattened must map layers to axes"),
    ],
)
def test_axes_that_cannot_be(flattened, error, words):
    with pytest.raises(error, match=words):
        kernel_of(lambda x: flat(x)[:, ::-1], flattened=flattened)


def test_an_order_is_none_where_it_changes_nothing():
    assert channels_first((4, 6, 1)) is None
    assert channels_first((1, 1, 6)) is None
    np.testing.assert_array_equal(np.argsort(channels_first((HEIGHT, WIDTH, CHANNELS))), PLACES)
    assert isinstance(UNKNOWN, str)


class OverTime(nn.Module):
    """A convolution over time, perhaps beside a dense layer, flattened."""

    beside: bool

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3,), name="conv")(x))
        if self.beside:
            x = x + nn.Dense(4, name="mix")(x)
        return nn.Dense(1, name="dense")(flat(x))


def test_a_flattened_sequence_is_an_image_only_after_convolutions():
    sequences = np.ones((5, 6, 4), np.float32)
    state = {"dense.weight": COUNTED["weight"], "dense.bias": COUNTED["bias"],
             "conv.weight": np.ones((4, 4, 3)), "conv.bias": np.ones(4)}  # fmt: skip
    found = interop.from_state_dict(OverTime(False), state, sequences)["params"]["dense"]
    np.testing.assert_array_equal(
        found["kernel"][:, 0], [c * 6 + t for t in range(6) for c in range(4)]
    )
    # PyTorch may have put channels last for the dense layer, and left them there.
    state |= {"mix.weight": np.ones((4, 4)), "mix.bias": np.ones(4)}
    with pytest.raises(ValueError, match="order of the input features of dense"):
        interop.from_state_dict(OverTime(True), state, sequences)


class Decoder(nn.Module):
    """A vector, through a dense layer and a norm, as an image, perhaps into a convolution."""

    shape: tuple
    window: tuple | None = (3, 3)

    @nn.compact
    def __call__(self, x, *, train=False):
        x = BatchNorm(name="norm")(nn.Dense(FEATURES, name="dense")(x), train=train)
        x = nn.relu(x).reshape(-1, *self.shape)
        return x if self.window is None else nn.ConvTranspose(2, self.window, name="conv")(x)


def decoded(model, **settings):
    names = ("dense.weight", "dense.bias", "norm.weight", "norm.bias", "norm.running_mean",
             "norm.running_var")  # fmt: skip
    state = {name: np.arange(FEATURES) for name in names}
    state["dense.weight"] = state["dense.weight"][:, None]
    if model.window is not None:
        state |= {
            "conv.weight": np.ones((model.shape[-1], 2, *model.window)),
            "conv.bias": np.ones(2),
        }
    inputs = np.ones((5, 1), np.float32)
    found = interop.from_state_dict(model, state, inputs, **settings)
    back = interop.to_state_dict(model, found, inputs, like=state, **settings)
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value)
    dense = found["params"]["dense"]
    norms = (*found["params"]["norm"].values(), *found["batch_stats"]["norm"].values())
    features = [dense["kernel"][0], dense["bias"], *norms]
    for each in features:
        np.testing.assert_array_equal(each, features[0])
    return np.asarray(features[0])


def test_outputs_that_become_an_image_are_put_in_order_too():
    image = (HEIGHT, WIDTH, CHANNELS)
    np.testing.assert_array_equal(decoded(Decoder(image)), PLACES)
    time = [c * 6 + t for t in range(6) for c in range(4)]
    np.testing.assert_array_equal(decoded(Decoder((6, 4), (3,))), time)
    # Heads, vectors of a sequence, images of one channel or one position.
    for shape in ((6, 4), (HEIGHT, FEATURES // HEIGHT, 1), (1, 1, FEATURES)):
        np.testing.assert_array_equal(decoded(Decoder(shape, None)), np.arange(FEATURES))
    with pytest.raises(ValueError, match=r"order of the output features of dense .* unflattened="):
        decoded(Decoder(image, None))
    # The norm between reads them in the order that was said.
    found = decoded(Decoder(image, None), unflattened={"dense": image})
    np.testing.assert_array_equal(found, PLACES)
    found = decoded(Decoder(image, None), unflattened={"dense": None})
    np.testing.assert_array_equal(found, np.arange(FEATURES))


def test_channels_that_become_pixels_are_asked_for():
    class Shuffle(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (1, 1), name="conv")(x)
            x = x.reshape(5, HEIGHT, WIDTH, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5)
            return x.reshape(5, 2 * HEIGHT, 2 * WIDTH, 2)

    state = {"conv.weight": np.ones((8, 4, 1, 1)), "conv.bias": np.ones(8)}
    with pytest.raises(ValueError, match="order of the output features of conv"):
        interop.from_state_dict(Shuffle(), state, IMAGES)
    interop.from_state_dict(Shuffle(), state, IMAGES, unflattened={"conv": None})
    with pytest.raises(ValueError, match="channels of a convolution must keep their order"):
        interop.from_state_dict(Shuffle(), state, IMAGES, unflattened={"conv": (2, 2, 2)})


def test_a_dense_layer_that_makes_an_image_by_itself_is_asked_for():
    model = nn.Sequential([nn.DenseGeneral((HEIGHT, WIDTH, CHANNELS))])
    state = {"dense.weight": np.arange(FEATURES)[:, None], "dense.bias": np.arange(FEATURES)}
    x = np.ones((5, 1), np.float32)
    with pytest.raises(ValueError, match="order of the output features of layers_0"):
        interop.from_state_dict(model, state, x)
    said = {"layers_0": (HEIGHT, WIDTH, CHANNELS)}
    found = interop.from_state_dict(model, state, x, unflattened=said)["params"]["layers_0"]
    np.testing.assert_array_equal(found["bias"].ravel(), PLACES)
    np.testing.assert_array_equal(found["kernel"].ravel(), PLACES)

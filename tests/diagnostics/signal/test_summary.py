"""Sizes and operations against counts by hand."""

import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from jaxdl import losses, models
from jaxdl.diagnostics import graph, propagation, summary
from jaxdl.diagnostics.signal.flops import Flops, count_flops
from jaxdl.layers import BatchNorm


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_dense_layers_by_hand():
    sizes = summary(models.MLP([7, 3]), shape(4, 5))
    first, second = 2 * 4 * 5 * 7, 2 * 4 * 7 * 3
    assert sizes.names == ("dense_0", "dense_0/activation", "dense_1")
    assert sizes.shapes == ((4, 7), (4, 7), (4, 3))
    assert sizes.parameters == (5 * 7 + 7, 0, 7 * 3 + 3)
    assert sizes.flops == (Flops(first, first), Flops(0, 0), Flops(second, 2 * second))
    assert sizes.total_flops == (first + second, first + 2 * second)
    assert sizes.total_parameters == 66
    assert sizes.parameter_bytes == 264
    assert sizes.activation_bytes == (112, 112, 48)
    assert sizes.total_activation_bytes == 272


@pytest.mark.parametrize(
    ("strides", "padding", "groups", "dilation", "height", "width"),
    [
        # Output sizes by hand from 9 x 8: floor((size + padding - (window - 1) d - 1) / s) + 1.
        (1, "SAME", 1, 1, 9, 8),
        (1, "VALID", 1, 1, 7, 7),
        (2, "SAME", 1, 1, 5, 4),
        (2, "VALID", 2, 1, 4, 4),
        ((1, 3), ((2, 0), (1, 1)), 2, 1, 9, 3),
        (1, "VALID", 1, 2, 5, 6),
    ],
)
def test_convolutions_by_hand(strides, padding, groups, dilation, height, width):
    model = nn.Conv(
        6,
        (3, 2),
        strides=strides,
        padding=padding,
        feature_group_count=groups,
        kernel_dilation=dilation,
    )
    sizes = summary(model, shape(2, 9, 8, 4))
    assert sizes.shapes == ((2, height, width, 6),)
    # For each output a product and a sum with each input of its group in the 3 x 2 window.
    in_group = 4 // groups
    operations = 2 * (2 * height * width * 6) * (3 * 2 * in_group)
    assert sizes.flops == (Flops(operations, operations),)
    assert sizes.parameters == (3 * 2 * in_group * 6 + 6,)


def test_a_transposed_convolution_counts_no_inserted_zeros():
    sizes = summary(nn.ConvTranspose(5, (2, 2), strides=(2, 2)), shape(3, 4, 4, 6))
    assert sizes.shapes == ((3, 8, 8, 5),)
    # Windows of the size of the stride do not overlap: each output is a sum over 6 channels.
    assert sizes.flops[0].forward == 2 * 3 * 8 * 8 * 5 * 6


def test_the_backward_count_is_what_the_gradient_computes():
    model = models.MLP([16, 8, 1], norm=BatchNorm)
    inputs, targets = jnp.ones((4, 5)), jnp.ones((4, 1))
    variables = model.init(jax.random.key(0), inputs, train=False)

    def loss(params):
        outputs, _ = model.apply(
            {**variables, "params": params}, inputs, train=True, mutable=["batch_stats"]
        )
        return losses.mean_squared_error(outputs, targets).mean()

    program = jax.make_jaxpr(jax.grad(loss))(variables["params"])
    counted, _ = count_flops(program.jaxpr, [True] * len(program.jaxpr.invars))
    assert sum(summary(model, inputs, train=True).total_flops) == counted.forward


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(2, qkv_features=8)(x)


def test_attention_counts_its_products():
    batch, length, width = 3, 5, 8
    sizes = summary(Attention(), shape(batch, length, width))
    projection = 2 * batch * length * width * width
    scores = 2 * batch * length * length * width
    assert sizes.total_flops.forward == 4 * projection + 2 * scores
    # Query, key and value need no gradient of the data; both factors of a score are learned.
    assert sizes.total_flops.backward == 5 * projection + 4 * scores


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        step = nn.scan(
            lambda layer, x, _: (nn.tanh(layer(x)), None),
            variable_broadcast="params",
            split_rngs={"params": False},
            length=6,
        )
        return step(nn.Dense(4, name="layer"), x, None)[0]


def test_a_scan_counts_as_often_as_it_runs():
    one = 2 * 3 * 4 * 4
    # The first turn's input is data, but one program runs all six.
    assert summary(Scanned(), shape(3, 4)).total_flops == (6 * one, 12 * one)


def test_what_a_scan_carries_is_learned_and_its_slices_are_not():
    def scanned(weights, start, data):
        def turn(carry, each):
            return jnp.tanh(carry @ weights), each @ each

        return jax.lax.scan(turn, start, data)

    program = jax.make_jaxpr(scanned)(jnp.ones((4, 4)), jnp.ones((4, 4)), jnp.ones((3, 4, 4)))
    flops, gives = count_flops(program.jaxpr, [True, False, False])
    # Two products of 128 operations in each of 3 turns; only the first has learned factors, both
    # its weights and what it carries.
    assert flops == (3 * 256, 3 * 256)
    assert gives == [True, False]


def test_loops_and_branches():
    def looped(x):
        x = jax.lax.while_loop(lambda x: x[0, 0] < 5, lambda x: x @ x, x)
        return jax.lax.cond(x[0, 0] > 3, lambda: x @ x @ x, lambda: x)

    program = jax.make_jaxpr(looped)(jnp.ones((4, 4)))
    assert count_flops(program.jaxpr, [True])[0] == (3 * 128, 6 * 128)


class Shared(nn.Module):
    def setup(self):
        self.dense = nn.Dense(3)
        self.offset = self.param("offset", nn.initializers.zeros, (3,))

    def __call__(self, x):
        return self.dense(nn.relu(self.dense(x) + self.offset))


def test_shared_parameters_count_once_and_those_of_containers_count():
    sizes = summary(Shared(), shape(2, 3))
    assert sizes.names == ("dense", "dense/activation", "dense:2")
    assert sizes.parameters == (12, 0, 0)
    assert sizes.total_parameters == 15
    assert "held by containers" in str(sizes)


def test_rows_are_those_of_propagation():
    model = models.MLP([8, 1], norm=BatchNorm, dropout_rate=0.5)
    batch = {"inputs": jnp.ones((4, 3)), "targets": jnp.ones((4, 1))}
    variables = model.init(jax.random.key(0), batch["inputs"], train=False)
    measured = propagation(
        model, variables, batch, loss=losses.mean_squared_error, key=jax.random.key(1)
    )
    sizes = summary(model, batch["inputs"], train=True)
    assert (sizes.names, sizes.kinds, sizes.shapes) == (
        measured.names,
        measured.kinds,
        measured.shapes,
    )


def test_a_model_larger_than_the_machine_has_a_summary():
    sizes = summary(models.MLP([10**6, 10**6, 10**6]), shape(10**4, 10**6))
    assert sizes.total_parameters == 3 * (10**12 + 10**6)
    assert sizes.total_flops.forward == 6 * 10**16
    assert "params size (MB): 12,000,012.00" in str(sizes)
    text = io.StringIO()
    Console(file=text, width=100).print(sizes)
    assert "params size (MB): 12,000,012.00" in text.getvalue()


def lines(sizes):
    """The totals below the table, by name."""
    return dict(line.split(": ") for line in str(sizes).splitlines() if ": " in line)


def test_the_table_ends_with_what_torchinfo_prints():
    sizes = summary(models.MLP([128, 10]), jax.ShapeDtypeStruct((100, 28, 28, 1), jnp.uint8))
    parameters = 784 * 128 + 128 + 128 * 10 + 10
    # torchinfo: inputs, twice the outputs of layers with parameters, and parameters, 4 bytes each.
    inputs, both, held = 4 * 100 * 784, 2 * 4 * 100 * (128 + 10), 4 * parameters
    assert (sizes.input_bytes, sizes.pass_bytes) == (inputs, both)
    assert (sizes.parameter_bytes, sizes.total_bytes) == (held, inputs + both + held)
    assert lines(sizes) == {
        "total params": f"{parameters:,}",
        "trainable params": f"{parameters:,}",
        "non-trainable params": "0",
        "input size (MB)": "0.31",  # 313,600 bytes
        "forward/backward pass size (MB)": "0.11",  # 110,400
        "params size (MB)": "0.41",  # 407,080
        "estimated total size (MB)": "0.83",
    }


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x).reshape(len(x), -1))


@pytest.mark.parametrize("train", [False, True])
def test_running_statistics_are_not_trainable(train):
    sizes = summary(Normed(), shape(2, 8, 8, 3), train=train)
    learned = (3 * 3 * 3 * 4 + 4) + (4 + 4) + (8 * 8 * 4 * 2 + 2)
    assert (sizes.total_parameters, sizes.state_numbers, sizes.state_bytes) == (learned, 8, 32)
    assert lines(sizes)["total params"] == str(learned + 8)
    assert lines(sizes)["non-trainable params"] == "8"
    assert sizes.total_bytes == sizes.input_bytes + sizes.pass_bytes + 4 * (learned + 8)


class Recurrent(nn.Module):
    cell: type = nn.LSTMCell

    @nn.compact
    def __call__(self, ids):
        sequence = nn.RNN(self.cell(6))(nn.Embed(50, 8)(ids))
        return {"sequence": sequence, "last": nn.Dense(2)(sequence[:, -1])}


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (8,))
        return scale * nn.relu(nn.Dense(8)(x))


class Turn(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return Block()(x), None


class Rematerialized(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="first")(x)
        x = nn.remat(Block)(name="one")(x)
        return nn.Dense(2, name="out")(nn.remat(Block)(name="two")(x))


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x):
        stack = nn.scan(
            nn.remat(Turn), variable_axes={"params": 0}, split_rngs={"params": True}, length=5
        )
        return nn.Dense(2, name="out")(stack(name="turns")(x, None)[0])


class Bare(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", nn.initializers.ones, (x.shape[-1], 4), jnp.bfloat16)


class Two(nn.Module):
    @nn.compact
    def __call__(self, left, right):
        return nn.Dense(3)(left), nn.Dense(3)(right)


LSTM = 4 * (8 * 6 + 6 * 6 + 6)
GRU = 3 * (8 * 6 + 6 * 6) + 4 * 6  # Flax: biases for three inputs and one state
BLOCK = 8 * 8 + 8 + 8


@pytest.mark.parametrize(
    ("model", "inputs", "parameters"),
    [
        (Two(), (shape(2, 4), shape(2, 5)), {"Dense_0": 15, "Dense_1": 18}),
        (
            Two(),
            {"left": shape(2, 4), "right": shape(2, 5)},
            {"Dense_0": 15, "Dense_1": 18},
        ),
        (
            Recurrent(),
            jax.ShapeDtypeStruct((2, 7), jnp.int32),
            {"Embed_0": 400, "RNN_0": LSTM, "Dense_0": 14},
        ),
        (
            Recurrent(nn.GRUCell),
            jax.ShapeDtypeStruct((2, 7), jnp.int32),
            {"Embed_0": 400, "RNN_0": GRU, "Dense_0": 14},
        ),
        (nn.RNN(nn.LSTMCell(6)), shape(2, 7, 8), {"RNN": LSTM}),
        (Rematerialized(), shape(2, 8), {"first": 72, "one": BLOCK, "two": BLOCK, "out": 18}),
        (Stacked(), shape(2, 8), {"turns": 5 * BLOCK, "out": 18}),
        (nn.remat(Bare)(), shape(2, 3), {"Bare": 12}),
        (
            nn.remat(nn.Sequential)([nn.Dense(8), nn.Dense(2)]),
            shape(2, 3),
            {"layers_0": 32, "layers_1": 18},
        ),
        (Bare(), shape(2, 3), {"Bare": 12}),
        (nn.jit(nn.Dense)(3), shape(2, 8), {"JitDense": 27}),
    ],
)
def test_every_layer_has_a_line(model, inputs, parameters):
    sizes = summary(model, inputs)
    layers = zip(sizes.names, sizes.parameters, strict=True)
    assert {name: count for name, count in layers if count} == parameters
    printed = str(sizes).splitlines()
    for name, count in parameters.items():
        assert any(
            line.split()[0] == name and str(count) in line.split() for line in printed if line
        )
    assert sizes.total_parameters == sum(parameters.values())
    assert "held by containers" not in str(sizes)


def test_a_recurrent_layer_keeps_its_whole_sequence():
    sizes = summary(Recurrent(), jax.ShapeDtypeStruct((2, 7), jnp.int32))
    # Outputs of Embed, RNN and Dense.
    assert sizes.pass_bytes == 2 * 4 * (2 * 7 * 8 + 2 * 7 * 6 + 2 * 2)
    assert sizes.input_bytes == 4 * 2 * 7


def test_a_byte_is_that_of_the_dtype():
    sizes = summary(Bare(), jax.ShapeDtypeStruct((2, 3), jnp.bfloat16))
    assert (sizes.input_bytes, sizes.parameter_bytes, sizes.pass_bytes) == (12, 24, 32)


@pytest.mark.parametrize("inputs", [(2, 8), [[1.0, 2.0]], "2x8"])
@pytest.mark.parametrize("of", [summary, graph])
def test_inputs_without_a_dtype_are_refused(of, inputs):
    with pytest.raises(TypeError, match=r"pass jax\.ShapeDtypeStruct"):
        of(models.MLP([2]), inputs)


class Nothing(nn.Module):
    def __call__(self, x):
        return x


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="which computes none"):
        summary(Nothing(), shape(2, 3))

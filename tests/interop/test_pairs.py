"""Which layer is which: by order, by names, by shape; and every layer left over is told."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxdl import interop, losses, models, training
from jaxdl.layers import BatchNorm

X = np.ones((1, 4), np.float32)


def linear(state, name, inputs, outputs):
    """A linear layer whose values no other one has."""
    start = 100 * len(state)
    state[f"{name}.weight"] = np.arange(inputs * outputs, dtype=np.float32).reshape(
        outputs, inputs
    ) + np.float32(start)
    state[f"{name}.bias"] = np.arange(outputs, dtype=np.float32) - np.float32(start)
    return state


def state_of(*layers):
    state = {}
    for name, inputs, outputs in layers:
        linear(state, name, inputs, outputs)
    return state


def pairs(model, state, inputs=X, **settings):
    """Of each of our layers the one of theirs whose bias it got."""
    variables = interop.from_state_dict(model, state, inputs, **settings)["params"]
    flat = {path: leaf for path, leaf in jax.tree.leaves_with_path(variables)}
    found = {}
    for path, leaf in flat.items():
        *owner, name = (part.key for part in path)
        if name == "bias":
            (theirs,) = [n for n in state if n.endswith("bias") and np.array_equal(state[n], leaf)]
            found["/".join(owner)] = theirs.removesuffix(".bias")
            kernel = flat[(*path[:-1], jax.tree_util.DictKey("kernel"))]
            np.testing.assert_array_equal(kernel, state[theirs[:-4] + "weight"].T)
    return found


def test_equal_lists_of_shapes_are_paired_in_order():
    state = state_of(("z", 4, 4), ("a", 4, 4), ("m", 4, 2))
    assert pairs(models.MLP([4, 4, 2]), state) == {"dense_0": "z", "dense_1": "a", "dense_2": "m"}


def test_shapes_that_occur_once_are_paired_in_any_order():
    state = state_of(("out", 5, 2), ("in", 4, 3), ("mid", 3, 5))
    expected = {"dense_0": "in", "dense_1": "mid", "dense_2": "out"}
    assert pairs(models.MLP([3, 5, 2]), state) == expected


def test_sorted_names_say_nothing_but_their_numbers_do():
    widths = [4] * 11
    state = state_of(*((f"net.{2 * number}", 4, 4) for number in range(11)))
    by_name = dict(sorted(state.items()))  # net.0, net.10, net.12, ... as a file has them
    expected = {f"dense_{number}": f"net.{2 * number}" for number in range(11)}
    assert pairs(models.MLP(widths), by_name) == expected
    assert pairs(models.MLP(widths), state) == expected
    shuffled = dict(sorted(state_of(("b", 4, 4), ("a", 4, 4)).items()))
    with pytest.raises(ValueError, match=r"(?s)dense_0: weight \(4, 4\).*only in the state dict:"):
        interop.from_state_dict(models.MLP([4, 4]), shuffled, X)


def test_another_order_of_equal_shapes_is_refused_and_both_sides_are_listed():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="first")(x)
            x = nn.Dense(3, name="narrow")(x)
            return nn.Dense(4, name="wide")(nn.Dense(4, name="last")(x[:, :1] + jnp.ones((1, 4))))

    state = state_of(("one", 4, 4), ("two", 4, 4), ("narrow", 4, 3), ("three", 4, 4))
    with pytest.raises(ValueError, match="each layer of Net must have one partner") as caught:
        interop.from_state_dict(Net(), state, X)
    message = str(caught.value)
    assert "only in the model:\n  first: weight (4, 4), bias (4,)" in message
    assert "only in the state dict:\n  one: weight (4, 4), bias (4,)" in message
    assert "narrow" not in message
    assert "pass names={'first': 'one', ...}" in message


def test_names_patterns_and_functions():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, name="b")(nn.Dense(4, name="a")(x))

    class Net(nn.Module):
        def setup(self):
            self.blocks = [Block() for _ in range(2)]
            self.head = nn.Dense(2)

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    layers = [("fc", 4, 2)]
    for block in (1, 0):
        layers += [(f"net.h.{block}.y", 4, 4), (f"net.h.{block}.x", 4, 4)]
    state = state_of(*layers)
    expected = {
        "blocks_0/a": "net.h.0.x",
        "blocks_0/b": "net.h.0.y",
        "blocks_1/a": "net.h.1.x",
        "blocks_1/b": "net.h.1.y",
        "head": "fc",  # not named: the only one of its shape
    }
    patterns = {"blocks_{}/a": "net.h.{}.x", "blocks_{}/b": "net.h.{}.y"}
    assert pairs(Net(), state, names=patterns) == expected
    assert pairs(Net(), state, names=expected.get) == expected
    inner = {name.replace(".x.", ".a.").replace(".y.", ".b."): leaf for name, leaf in state.items()}
    assert pairs(Net(), inner, names={"blocks_{}": "net.h.{}"})["blocks_1/b"] == "net.h.1.b"

    back = interop.to_state_dict(
        Net(), interop.from_state_dict(Net(), state, X, names=patterns), X,
        names={**patterns, "head": "fc"},
    )  # fmt: skip
    assert back.keys() == state.keys()
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        ({"dense_7": "a"}, ValueError, r"got \['dense_7'\]; it has dense_0, dense_1"),
        ({"dense_0": "aa"}, ValueError, "got 'aa' for 'dense_0'; nearest are"),
        ({"dense_0": "b"}, ValueError, r"dense_0: weight \(3, 4\), bias \(3,\) here and b: weight"),
        ({"dense_{}": "a"}, ValueError, "each layer once, got 'a' twice"),
        (["a", "b"], TypeError, r"names must map layers here to names there, got \['a', 'b'\]"),
        ({0: "a"}, TypeError, "got {0: 'a'}; pass a dictionary of words"),
        ({"dense_{}": "{}.{}"}, ValueError, "no more {} there than here, got 'dense_{}'"),
    ],
)
def test_names_that_cannot_be(names, error, words):
    state = state_of(("a", 4, 3), ("b", 3, 3))
    model = models.MLP([3, 3])
    if "{}" in str(names):
        state = state_of(("a", 4, 4), ("b", 4, 4))
        model = models.MLP([4, 4])
    with pytest.raises(error, match=words):
        interop.from_state_dict(model, state, X, names=names)


def test_a_bias_or_layer_too_many_is_an_error_and_not_dropped():
    state = state_of(("a", 4, 3), ("b", 3, 2))
    with pytest.raises(ValueError, match=r"(?s)only in the state dict:\n  b: weight \(2, 3\)"):
        interop.from_state_dict(models.MLP([3]), state, X)
    with pytest.raises(ValueError, match=r"(?s)only in the model:\n  dense_2: weight \(5, 2\)"):
        interop.from_state_dict(models.MLP([3, 2, 5]), state, X)
    with pytest.raises(ValueError, match=r"dense_0: weight \(3, 4\)"):  # the norm has the bias
        interop.from_state_dict(models.MLP([3, 2], norm=BatchNorm), state, X)


def test_a_new_head_keeps_its_start():
    model = models.MLP([3, 5])
    start = model.init(jax.random.key(0), jnp.asarray(X), train=False)
    state = state_of(("a", 4, 3), ("old", 3, 1000))
    settings = {"strict": False, "start": start}
    with pytest.warns(UserWarning, match=r"(?s)dense_1: weight \(5, 3\).*old: weight \(1000, 3\)"):
        found = interop.from_state_dict(model, state, X, **settings)["params"]
    np.testing.assert_array_equal(found["dense_0"]["kernel"], state["a.weight"].T)
    np.testing.assert_array_equal(found["dense_1"]["kernel"], start["params"]["dense_1"]["kernel"])
    with (
        pytest.warns(match="no partner"),
        pytest.raises(ValueError, match="got none for params/dense_1"),
    ):
        interop.from_state_dict(model, state, X, strict=False)
    with pytest.raises(ValueError, match="start must come with strict=False"):
        interop.from_state_dict(model, state, X, start=start)
    # A layer that would fit, but is said to have no partner.
    same = state_of(("a", 4, 3), ("old", 3, 5))
    with pytest.warns(match="no partner"):
        kept = interop.from_state_dict(model, same, X, names={"dense_1": None}, **settings)
    np.testing.assert_array_equal(kept["params"]["dense_1"]["bias"], np.zeros(5))


def test_packages_that_are_missing_are_named_with_their_extra(tmp_path, monkeypatch):
    for name in ("safetensors", "safetensors.numpy", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "x.pt").touch()
    with pytest.raises(ImportError, match=r"a .pt file .*needs torch, .*parity"):
        interop.from_state_dict(nn.Dense(2), tmp_path / "x.pt", X)
    with pytest.raises(ImportError, match=r"needs safetensors, .*interop"):
        interop.load_safetensors(tmp_path / "x.safetensors")
    with pytest.raises(ImportError, match=r"needs safetensors.numpy, .*interop"):
        interop.save_safetensors(tmp_path / "x.safetensors", {"a": np.ones(1)})


def test_a_file_needs_no_pytorch(tmp_path):
    state = state_of(("b", 4, 3), ("a", 3, 2))
    state = {name: leaf.astype(ml_dtypes.bfloat16) for name, leaf in state.items()}
    path = tmp_path / "model.safetensors"
    interop.save_safetensors(path, state)
    found = interop.from_state_dict(models.MLP([3, 2]), path, X)["params"]
    assert found["dense_0"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(found["dense_0"]["kernel"], state["b.weight"].T)
    half = interop.from_state_dict(models.MLP([3, 2]), path, X, dtype=jnp.bfloat16)["params"]
    assert half["dense_0"]["kernel"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ({"state_dict": {"a": np.ones(1)}}, TypeError, r"pass checkpoint\['state_dict'\]"),
        ({"params": {"a": np.ones(1)}}, TypeError, "load_safetensors reads them"),
        ({"epoch": 3}, TypeError, "got 'epoch': int; leave out what is no tensor"),
        ({}, ValueError, "must hold tensors, got none"),
        ([np.ones(1)], TypeError, "must map names to tensors or be a path, got list"),
        ("there_is_none.pt", FileNotFoundError, "must be a file that is there"),
        (__file__, ValueError, "must be a file .safetensors, .pt, .pth or .bin, got test_pairs.py"),
        (
            {"weight": np.full((2, 4), 1e39), "bias": np.ones(2)},
            ValueError,
            "must fit float32, got",
        ),
        ({"weight": np.ones((2, 4), complex), "bias": np.ones(2)}, ValueError, "must be real"),
    ],
)
def test_what_is_no_state_dict(state, error, words):
    with pytest.raises(error, match=words):
        interop.from_state_dict(nn.Dense(2), state, X)


def test_running_values_and_their_count():
    model = models.MLP([3, 2], norm=BatchNorm)
    variables = model.init(jax.random.key(0), jnp.asarray(X), train=False)
    state = interop.to_state_dict(model, variables, X)
    assert list(state) == [
        "dense_0.weight", "norm_0.weight", "norm_0.bias", "norm_0.running_mean",
        "norm_0.running_var", "norm_0.num_batches_tracked", "dense_1.weight", "dense_1.bias",
    ]  # fmt: skip
    assert state["norm_0.num_batches_tracked"] == 0
    like = state | {"norm_0.num_batches_tracked": np.array(9)}
    assert interop.to_state_dict(model, variables, X, like=like)["norm_0.num_batches_tracked"] == 9

    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return BatchNorm(cumulative=True, name="norm")(x, train=train)

    there = {"weight": np.ones(4), "bias": np.ones(4), "running_mean": np.ones(4),
             "running_var": np.ones(4), "num_batches_tracked": np.array(7)}  # fmt: skip
    found = interop.from_state_dict(Counting(), there, X)
    assert found["batch_stats"]["norm"]["count"] == 7
    assert interop.to_state_dict(Counting(), found, X, like=there)["num_batches_tracked"] == 7


def test_a_table_of_positions_may_be_a_parameter_or_an_embedding():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            table = self.param("positions", nn.initializers.ones, (6, 4))
            return nn.Dense(2, name="head")(x + table[0])

    table = np.arange(24, dtype=np.float32).reshape(6, 4)
    state = state_of(("head", 4, 2))
    for there, names in (("positions", None), ("pos.weight", {"positions": "pos"})):
        given = {there: table, **state}
        found = interop.from_state_dict(Net(), given, X, names=names)
        np.testing.assert_array_equal(found["params"]["positions"], table)
        back = interop.to_state_dict(Net(), found, X, names=names, like=given)
        np.testing.assert_array_equal(back[there], table)
    # A table of another name is no guess.
    with pytest.raises(ValueError, match=r"only in the model:\n  positions: \(6, 4\)"):
        interop.from_state_dict(Net(), {"other": table, **state}, X)


def test_a_task_is_converted_by_its_model_and_its_own_inputs():
    task = training.Task(models.MLP([2]), losses.cross_entropy)
    images = np.zeros((1, 2, 2, 1), np.uint8)  # a Task casts them to floats
    found = interop.from_state_dict(task, state_of(("a", 4, 2)), images)
    assert found["params"]["dense_0"]["kernel"].shape == (4, 2)


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.scan(
            lambda module, x, _: (module(x), None), variable_axes={"params": 0},
            split_rngs={"params": True}, length=3,
        )  # fmt: skip
        return layer(nn.Dense(4, name="layer"), x, None)[0]


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (Stacked(), ValueError, "must stand one by one, got layer/.* with an axis more"),
        # PyTorch has no such layer: its kernel stands alone, and nothing there has its name.
        (nn.ConvLocal(2, (1,)), ValueError, r"(?s)only in the model:.*kernel: \(4, 4, 2\)"),
        (lambda params, x: x, TypeError, "must be a Flax Linen module, got"),
        (nn.LayerNorm(feature_axes=(1, 2)), ValueError, "over the two axes of a sequence"),
    ],
)
def test_models_that_cannot_be_converted(model, error, words):
    with pytest.raises(error, match=words):
        interop.from_state_dict(model, {"weight": np.ones((4, 4))}, np.ones((1, 4, 4), np.float32))


def test_variables_that_do_not_fit_and_dtypes_that_are_none():
    variables = {"params": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
    with pytest.raises(ValueError, match=r"params/kernel \(4, 2\), got \(3, 2\)"):
        interop.to_state_dict(nn.Dense(2), variables, X)
    with pytest.raises(ValueError, match=r"params/kernel \(4, 2\), got nothing"):
        interop.to_state_dict(nn.Dense(2), {}, X)
    with pytest.raises(ValueError, match="dtype must be a floating one"):
        interop.to_state_dict(nn.Dense(2), variables, X, dtype=np.int32)


def test_a_recurrence_with_a_projection_is_refused_by_name():
    state = {
        "rnn.weight_ih_l0": np.ones((8, 4)),
        "rnn.weight_hh_l0": np.ones((8, 2)),
        "rnn.weight_hr_l0": np.ones((2, 2)),
    }
    with pytest.raises(ValueError, match=r"no projection .proj_size., .* got rnn.weight_ih_l0"):
        interop.from_state_dict(nn.Dense(2), state, X)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="layer")(x)


class Jitted(nn.Module):
    @nn.compact
    def __call__(self, x):
        block = nn.jit(Block)
        return block(name="one")(block(name="two")(x))


def test_blocks_that_share_a_compiled_program_are_each_a_layer():
    state = state_of(("a", 4, 4), ("b", 4, 4))
    assert pairs(Jitted(), state) == {"two/layer": "a", "one/layer": "b"}


class Applies(nn.Module):
    """The parameters of a layer that it calls by `apply`."""

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(2, parent=None)
        return dense.apply(
            {"params": self.param("inner", lambda key: dense.init(key, x)["params"])}, x
        )


def test_a_layer_that_the_model_does_not_call_itself_is_asked_for():
    state = state_of(("fc", 4, 2))
    with pytest.raises(ValueError, match="order of the input features of inner must be known"):
        interop.from_state_dict(Applies(), state, X)
    assert pairs(Applies(), state, flattened={"inner": None}) == {"inner": "fc"}


class Unknown(nn.Module):
    """A linear layer with names of its own."""

    @nn.compact
    def __call__(self, x):
        return x @ self.param("matrix", nn.initializers.ones, (x.shape[-1], 4))


def test_a_layer_that_nobody_knows_keeps_its_axes_and_is_not_put_after_an_image():
    matrix = np.arange(16, dtype=np.float32).reshape(4, 4)
    found = interop.from_state_dict(Unknown(), {"matrix": matrix}, X)
    np.testing.assert_array_equal(found["params"]["matrix"], matrix)
    model = nn.Sequential([lambda x: x.reshape(x.shape[0], -1), Unknown()])
    state = {"layers_1.matrix": np.ones((18, 4))}
    images = np.ones((1, 3, 3, 2), np.float32)
    with pytest.raises(
        ValueError, match="a layer that is known, got layers_1, a Unknown with matrix"
    ):
        interop.from_state_dict(model, state, images)
    interop.from_state_dict(model, state, images, flattened={"layers_1": None})


def test_shapes_alone_will_do_for_inputs():
    shapes = jax.ShapeDtypeStruct((1, 4), jnp.float32)
    assert pairs(models.MLP([3]), state_of(("a", 4, 3)), shapes) == {"dense_0": "a"}

"""Layers of one name belong together, whatever their order; numbers are not names."""

import flax.linen as nn
import numpy as np
import pytest

from jaxdl import interop, models
from jaxdl.interop.equal_names import equal_names

X = np.ones((1, 4), np.float32)


class Calls(nn.Module):
    """Dense layers of these names, called in this order."""

    names: tuple
    width: int = 4

    @nn.compact
    def __call__(self, x):
        for name in self.names:
            x = nn.Dense(self.width, name=name)(x)
        return x


def state_of(*names, outputs=4):
    """Linear layers, each full of its own number: 0, 1, ..."""
    return {
        f"{name}.{leaf}": np.full((outputs, 4) if leaf == "weight" else outputs, number, "float32")
        for number, name in enumerate(names)
        for leaf in ("weight", "bias")
    }


def got(layers, state, **settings):
    """Of each layer the number that fills it there."""
    params = interop.from_state_dict(Calls(layers), state, X, **settings)["params"]
    for layer in params.values():
        assert np.unique(layer["kernel"]) == np.unique(layer["bias"])
    return {name: int(params[name]["bias"][0]) for name in layers}


@pytest.mark.parametrize("prefix", ["", "model.", "a.b_c."])
@pytest.mark.parametrize("as_file", [False, True])
def test_equal_names_come_before_order(prefix, as_file):
    state = state_of(*(f"{prefix}{name}_proj" for name in "kvq"))
    state = dict(sorted(state.items())) if as_file else state
    expected = {"q_proj": 2, "k_proj": 0, "v_proj": 1}
    assert got(("q_proj", "k_proj", "v_proj"), state) == expected
    back = interop.to_state_dict(
        Calls(tuple(expected)),
        interop.from_state_dict(Calls(tuple(expected)), state, X),
        X,
        like=state,
    )
    assert list(back) == list(state)
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name])


def test_a_sorted_file_with_the_names_of_the_model(tmp_path):
    state = dict(sorted(state_of("a", "b").items()))
    interop.save_safetensors(tmp_path / "x.safetensors", state)
    assert got(("b", "a"), tmp_path / "x.safetensors") == {"b": 1, "a": 0}


def test_underscores_and_dots_are_one():
    state = state_of("layer.1.fc1", "layer.0.fc1", "layer.0.fc2", "layer.1.fc2")
    names = ("layer_0_fc1", "layer_0_fc2", "layer_1_fc1", "layer_1_fc2")
    assert got(names, state) == dict(zip(names, (1, 2, 0, 3), strict=True))


def test_numbers_that_count_in_two_ways_are_no_names():
    # conv_2 here is conv.4 there, where the activations are counted too.
    names = tuple(f"conv_{number}" for number in range(4))
    state = state_of(*(f"conv.{2 * number}" for number in range(4)))
    assert got(names, state) == dict(zip(names, range(4), strict=True))
    assert equal_names(names, ["conv.0", "conv.2", "conv.4", "conv.6"]) == {}
    assert equal_names(["a_b", "a/b"], ["a.b", "a_b"]) == {"a_b": "a_b", "a/b": "a.b"}
    assert equal_names(["x/0"], ["y.0"]) == {}


def test_the_others_go_by_order_only_if_they_stand_in_the_same_places():
    # "enc" runs first here and is the last one there, so their order is not that of the calls.
    state = state_of("fc_mu", "fc_logvar", "enc")
    with pytest.raises(ValueError, match=r"(?s)only in the model:\n  mu: .*\n  logvar: "):
        got(("enc", "mu", "logvar"), state)
    assert got(("enc", "mu", "logvar"), state_of("enc", "x", "y")) == {
        "enc": 0, "mu": 1, "logvar": 2,
    }  # fmt: skip
    # k, v and q stand in another order, and "out" is where it was.
    assert got(("q", "k", "v", "out"), state_of("k", "v", "q", "end"))["out"] == 3


def test_numbers_alone_pair_only_equal_words():
    up = dict(sorted(state_of("up1", "up2", "in").items()))
    with pytest.raises(ValueError, match=r"(?s)Dense_0: .*up1: .*pass names=\{'Dense_0': 'up1'"):
        got(("Dense_0", "Dense_1", "in"), up)
    names = {"Dense_0": "up2", "Dense_1": "up1"}
    assert got(("Dense_0", "Dense_1", "in"), up, names=names) == {
        "Dense_0": 1, "Dense_1": 0, "in": 2,
    }  # fmt: skip
    # One list of layers on each side, which counts its activations there.
    lists = dict(sorted(state_of("net.0", "net.2", "net.10").items()))
    assert got(("d_0", "d_1", "d_2"), lists) == {"d_0": 0, "d_1": 1, "d_2": 2}


def test_equal_names_of_other_shapes_are_an_error_and_a_new_head_keeps_its_start():
    state = state_of("a", "b") | {
        "fc.weight": np.ones((7, 4), np.float32),
        "fc.bias": np.ones(7, np.float32),
    }
    message = r"(?s)only in the model:\n  fc: weight \(4, 4\).*fc: weight \(7, 4\).*not so fc; "
    with pytest.raises(ValueError, match=message):
        got(("a", "b", "fc"), state)
    start = {"params": {"fc": {"kernel": np.full((4, 4), 9.0), "bias": np.full(4, 9.0)}}}
    with pytest.warns(UserWarning, match="no partner"):
        found = got(("b", "a", "fc"), state, strict=False, start=start)
    assert found == {"b": 1, "a": 0, "fc": 9}


class Has:
    def __init__(self, **values):
        vars(self).update(values)


def test_what_holds_variables_is_told_where_they_are(tmp_path):
    model = models.MLP([2])
    held = Has(variables={"params": {}})
    for given, fix in ((held, "pass state.variables"), (Has(state=held), "result.state.variables")):
        with pytest.raises(TypeError, match=f"variables must be a dictionary .* got Has; .*{fix}"):
            interop.to_state_dict(model, given, X)
        with pytest.raises(TypeError, match=f"start must be a dictionary of .* got Has; .*{fix}"):
            interop.from_state_dict(model, state_of("a"), X, strict=False, start=given)
        with pytest.raises(TypeError, match=f"got all of it: Has; .*{fix}"):
            interop.save_safetensors(tmp_path / "x", given)

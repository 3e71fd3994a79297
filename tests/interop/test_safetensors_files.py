"""Variables in safetensors files: every dtype, bit for bit, and what is refused."""

import json
import struct

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import save_file

from jaxdl import interop

sample = np.array([0.1, -2.5, 3.0])
DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.uint8, np.bool_]


def header(path):
    """The format, read by hand: the header's length in 8 bytes, then JSON."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def test_variables_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "model.safetensors"
    variables = {
        "params": {
            f"layer_{number}": {
                "kernel": np.asarray(sample, dtype),
                # An array of strides, one without axes, one without entries.
                "strided": np.arange(6).reshape(2, 3).astype(dtype).T,
                "one": np.asarray(sample[1], dtype),
                "none": np.zeros((0, 3), dtype),
            }
            for number, dtype in enumerate(DTYPES)
        },
        "batch_stats": {"norm": {"mean": jnp.asarray(sample, jnp.bfloat16)}},
    }
    interop.save_safetensors(path, variables)
    found = interop.load_safetensors(str(path))
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(variables), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, np.asarray(expected))
    words, numbers = header(path)
    entry = words["params/layer_1/strided"]
    assert (entry["dtype"], entry["shape"]) == ("F32", [3, 2])
    stored = np.frombuffer(numbers[slice(*entry["data_offsets"])], np.float32)
    np.testing.assert_array_equal(stored, [0, 3, 1, 4, 2, 5])


def test_names_keep_their_order_which_the_format_does_not(tmp_path):
    path = tmp_path / "state.safetensors"
    state = {"b.weight": np.zeros(2), "b.bias": np.ones(1), "a.weight": np.zeros(3)}
    interop.save_safetensors(path, state, metadata={"format": "pt"})
    assert list(interop.load_safetensors(path)) == list(state)
    words, _ = header(path)
    assert list(words)[1:] == sorted(state)
    assert words["__metadata__"]["format"] == "pt"


def test_a_file_that_is_there_is_replaced_whole(tmp_path):
    path = tmp_path / "model.safetensors"
    interop.save_safetensors(path, {"a": np.zeros(1000)})
    with pytest.raises(TypeError, match=r"got b: list; pass state.variables"):
        interop.save_safetensors(path, {"a": np.zeros(1), "b": [1.0]})
    assert interop.load_safetensors(path)["a"].shape == (1000,)
    interop.save_safetensors(path, {"a": np.zeros(1)})
    assert interop.load_safetensors(path)["a"].shape == (1,)
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("variables", "error", "words"),
    [
        (np.zeros(2), TypeError, "got all of it: ndarray"),
        ({}, ValueError, "at least one array, got none"),
        ({"params": {}}, ValueError, "got params empty; leave it out"),
        ({"": np.zeros(1)}, ValueError, "names must be words, got ''"),
        ({0: np.zeros(1)}, ValueError, "names must be words, got 0"),
        ({"key": jax.random.key(0)}, TypeError, "a random key as jax.random.key_data"),
    ],
)
def test_what_is_refused(tmp_path, variables, error, words):
    with pytest.raises(error, match=words):
        interop.save_safetensors(tmp_path / "x.safetensors", variables)
    assert list(tmp_path.iterdir()) == []


def test_metadata_and_paths_are_words(tmp_path):
    with pytest.raises(TypeError, match=r"metadata must map words to words, got {'epoch': 3}"):
        interop.save_safetensors(tmp_path / "x", {"a": np.zeros(1)}, metadata={"epoch": 3})
    with pytest.raises(TypeError, match=r"path must name a .safetensors file, got 3"):
        interop.load_safetensors(3)


def test_a_file_that_is_missing_cut_or_of_another_kind(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="which is not there"):
        interop.load_safetensors(path)
    interop.save_safetensors(path, {"a": np.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        interop.load_safetensors(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        interop.load_safetensors(path)


def test_a_folder_is_never_replaced(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept").touch()
    with pytest.raises(IsADirectoryError, match="path must be a file, got the folder"):
        interop.save_safetensors(tmp_path / "run", {"a": np.zeros(1)})
    assert (tmp_path / "run" / "kept").exists()


def test_names_with_slashes_and_partitioned_parameters(tmp_path):
    # Flax's spectral norm calls a variable "Dense_0/kernel/u".
    path = tmp_path / "model.safetensors"
    value = np.arange(2.0)
    boxed = nn.Partitioned(value, ("features",))
    interop.save_safetensors(path, {"norm": {"a/b%2F": value}, "plain": boxed})
    found = interop.load_safetensors(path)
    assert found["norm"].keys() == {"a/b%2F"}
    assert list(header(path)[0])[1:] == ["norm/a%2Fb%252F", "plain"]
    np.testing.assert_array_equal(found["plain"], value)


def test_a_file_by_others_has_its_names_as_they_are(tmp_path):
    save_file({"x%2Fy": np.zeros(1), "a.b": np.ones(1)}, tmp_path / "other.safetensors")
    assert interop.load_safetensors(tmp_path / "other.safetensors").keys() == {"x%2Fy", "a.b"}
    save_file({"a/b": np.zeros(1), "a": np.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="must be those of nested dictionaries, got 'a"):
        interop.load_safetensors(tmp_path / "other.safetensors")

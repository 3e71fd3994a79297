"""What was measured is read from disk as it was: types, names, axes."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from jaxdl.claims import read_results, write_results

ARRAYS = {
    "float16": np.ones((2, 3), np.float16),
    "int64": np.array([2**40, -1, 0]),
    "uint8": np.array([255], np.uint8),
    "bool": np.array([True, False]),
    "text": np.array(["ReLU", "tanh é"]),
    "complex": np.array(1j),
    "bfloat16": np.asarray(jnp.arange(3, dtype=jnp.bfloat16)),
    "record": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
    "file": np.array([np.nan, np.inf]),
    "a name/with signs": np.array(0.1),
}


def test_arrays_by_name(tmp_path):
    write_results(tmp_path, ARRAYS | {"device": jnp.arange(3), "number": 1.5})
    read = read_results(tmp_path)
    assert list(read) == [*ARRAYS, "device", "number"]
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array, strict=True)
    np.testing.assert_array_equal(read["device"], np.arange(3))
    with np.load(tmp_path / "results.npz", allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["int64"], ARRAYS["int64"], strict=True)


def test_a_dataset(tmp_path):
    dataset = xarray.Dataset(
        {name: (f"axis of {name}" if a.ndim == 1 else [f"{name}{i}" for i in range(a.ndim)], a)
         for name, a in ARRAYS.items()},
        {
            "seed": np.arange(2),
            "norm": ["none", "batch"],
            "label": ("seed", np.array([True, False])),
            "scalar": np.float32(0.5),
        },
        {"source": "a lecture", "runs": 3},
    )  # fmt: skip
    dataset["loss"] = (("seed", "norm"), np.eye(2, dtype=np.float32), {"units": "nats"})
    write_results(tmp_path, dataset)
    read = read_results(tmp_path)
    for name, variable in dataset.variables.items():
        np.testing.assert_array_equal(read[name], variable, strict=True)
    # xarray finds no array of bfloat16 equal to another, not even to itself.
    xarray.testing.assert_identical(read.drop_vars("bfloat16"), dataset.drop_vars("bfloat16"))
    assert float(read.loss.sel(seed=1, norm="batch")) == 1.0


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([1.0], "must return arrays by name or an xarray.Dataset, got list; return a dictionary"),
        ({1: 1.0}, "must have strings as names, got 1; use '1'"),
        ({"a": np.array([None])}, "must hold numbers, booleans or text, got Python objects in 'a'"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, results, message):
    with pytest.raises(TypeError, match=message):
        write_results(tmp_path, results)

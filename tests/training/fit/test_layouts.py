"""Several devices and processes give the numbers of one: each in processes of its own."""

import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import STRICT_PYTHON, with_devices

from jaxdl.training.fit import layouts

SCRIPT = Path(__file__).with_name("parallel_runs.py")

# 20 steps of sums in another order, each a few units in the last place of numbers up to 3.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory):
    out = tmp_path_factory.mktemp("devices") / "runs.npz"
    command = [*STRICT_PYTHON, str(SCRIPT), "devices", str(out)]
    subprocess.run(command, check=True, env=with_devices(8), timeout=300)
    return dict(np.load(out))


def named(arrays, prefix):
    found = {name.removeprefix(prefix): array for name, array in arrays.items()
             if name.startswith(prefix)}  # fmt: skip
    assert len(found) > 10
    return found


def check_equal(left, right, tolerance=TOLERANCE):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(
            left[name], right[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize("run", ["plain", "dropout", "remainder"])
def test_a_mesh_gives_the_numbers_of_one_device(on_devices, run):
    # The smaller last batch has 3 examples, whose variance of a feature may be small: normalising
    # multiplies the rounding of the sums by up to the inverse standard deviation, about 10 here.
    tolerance = 10 * TOLERANCE if run == "remainder" else TOLERANCE
    check_equal(named(on_devices, f"mesh {run}"), named(on_devices, f"jit {run}"), tolerance)


@pytest.mark.slow
def test_masks_do_not_depend_on_the_mesh(on_devices):
    check_equal(named(on_devices, "square dropout"), named(on_devices, "jit dropout"))


@pytest.mark.slow
@pytest.mark.parametrize("run", ["plain", "remainder"])
def test_pmap_gives_the_numbers_of_one_device(on_devices, run):
    tolerance = 10 * TOLERANCE if run == "remainder" else TOLERANCE
    check_equal(named(on_devices, f"pmap {run}"), named(on_devices, f"jit {run}"), tolerance)


@pytest.mark.slow
def test_under_pmap_each_device_draws_its_own_masks(on_devices):
    drawn = {tuple(row) for row in on_devices["masks"]}
    # Two of 8 masks of 32 fair bits are alike once in 2^32 / 28, that is 1.5e8, keys.
    assert len(drawn) == 8
    first, again = named(on_devices, "pmap dropout"), named(on_devices, "pmap again")
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory):
    out = tmp_path_factory.mktemp("processes")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), "process", str(i), str(port), str(out)],
            env=with_devices(2),
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return [dict(np.load(out / f"{i}.npz")) for i in range(2)]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(on_devices, in_processes):
    for run in ("dropout", "remainder"):
        tolerance = 10 * TOLERANCE if run == "remainder" else TOLERANCE
        for arrays in in_processes:
            check_equal(named(arrays, f"mesh {run}"), named(on_devices, f"jit {run}"), tolerance)


@pytest.mark.slow
def test_two_processes_agree_bit_for_bit(in_processes):
    for name, array in in_processes[0].items():
        np.testing.assert_array_equal(array, in_processes[1][name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["stream", "resumed"])
def test_two_processes_stream_and_resume_with_the_same_bits(in_processes, run):
    for arrays in in_processes:
        whole, other = named(arrays, "mesh dropout"), named(arrays, run)
        for name in whole:
            np.testing.assert_array_equal(whole[name], other[name], err_msg=name)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (jax.make_mesh((1,), ("a",), axis_types=(jax.sharding.AxisType.Explicit,)), "Auto axes"),
    ],
)
def test_refuses(given, text):
    with pytest.raises(ValueError, match=text):
        layouts.resolve(given, 16)


def test_refuses_devices_that_do_not_divide_the_batch():
    with pytest.raises(ValueError, match=r"multiple of the 8 devices.*got 100; pass 104 or 96"):
        layouts.check_batch(8, 100)


def test_a_coordinator_needs_its_numbers():
    with pytest.raises(ValueError, match="given together"):
        layouts.initialize("127.0.0.1:1", processes=2)

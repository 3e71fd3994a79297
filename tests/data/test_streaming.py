"""A stream gives the batches that `fit` takes from memory, and reads no more than it must."""

import gc
import inspect
import socket
import subprocess
import sys
import threading
import time
import weakref

import chex
import jax
import numpy as np
import pytest
from processes import with_devices

from jaxdl.data import Arrays, DataError, load
from jaxdl.data.streaming import decode_tfds, stream
from jaxdl.training import epoch_order

pytest.importorskip("grain")

EXAMPLES, BATCH = 23, 5
# Seconds that a thread is given to end or to read ahead; it needs milliseconds.
PATIENCE = 20


class Counting:
    """Examples that tell which of them were read, and when."""

    def __init__(self, examples=EXAMPLES):
        self.read = []
        self.examples = examples

    def __len__(self):
        return self.examples

    def __getitem__(self, index):
        self.read.append(index)
        return {"inputs": np.full(3, index, np.float32), "targets": index}


class Broken(Counting):
    """A record that cannot be read."""

    def __getitem__(self, index):
        if index == 7:
            raise OSError("checksum differs")
        return super().__getitem__(index)


class Together(Broken):
    """Reads several at a time, and then cannot say which was broken."""

    def __getitems__(self, indices):
        self.calls = [*getattr(self, "calls", []), indices]
        if 7 in indices:
            raise OSError("something is wrong")
        return [Counting.__getitem__(self, index) for index in indices]


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    return Arrays(
        inputs=generator.integers(0, 256, (EXAMPLES, 4, 4, 3), np.uint8),
        targets=generator.normal(size=(EXAMPLES, 2)),
    )


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    """Whatever a test does with its streams, their threads end by themselves."""
    yield
    if reading_threads():
        gc.collect()
    wait_until(lambda: not reading_threads())


def reading_threads():
    return [thread for thread in threading.enumerate() if "grain" in thread.name]


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.005)


def settled(count):
    """The count once it has stopped growing."""
    before, now = -1, count()
    while before != now:
        time.sleep(0.1)
        before, now = now, count()
    return now


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_those_of_the_in_memory_path(key, arrays, drop_last, threads):
    held = jax.device_put({"inputs": arrays.inputs, "targets": arrays.targets})
    for epoch in range(2):
        order = epoch_order(key, epoch, EXAMPLES)
        batches = list(
            stream(
                arrays, order, batch_size=BATCH, drop_last=drop_last, threads=threads, prefetch=3
            )
        )
        assert [len(batch["inputs"]) for batch in batches] == [5] * 4 + [3] * (not drop_last)
        for step, batch in enumerate(batches):
            rows = order[step * BATCH : (step + 1) * BATCH]
            expected = {name: array[rows] for name, array in held.items()}
            chex.assert_trees_all_equal(batch, expected)
            chex.assert_trees_all_equal_dtypes(batch, expected)


def test_examples_one_by_one_make_the_same_batches(key, arrays):
    examples = [
        {"image": image, "target": target}
        for image, target in zip(arrays.inputs, arrays.targets, strict=True)
    ]
    order = epoch_order(key, 0, EXAMPLES)
    found = stream(
        examples,
        order,
        batch_size=BATCH,
        decode=lambda example: {"inputs": example["image"], "targets": example["target"]},
    )
    chex.assert_trees_all_equal(list(found), list(stream(arrays, order, batch_size=BATCH)))


@pytest.mark.parametrize("start_step", range(6))
def test_starts_at_any_step_and_reads_nothing_before_it(key, start_step):
    order = epoch_order(key, 0, EXAMPLES)
    source = Counting()
    rest = list(stream(source, order, batch_size=BATCH, start_step=start_step))
    assert source.read == order[start_step * BATCH :].tolist()
    chex.assert_trees_all_equal(
        rest, list(stream(Counting(), order, batch_size=BATCH))[start_step:]
    )


def test_a_large_epoch_starts_anywhere_at_once():
    source = Counting(examples=10_000_000)
    batches = stream(source, range(len(source)), batch_size=2, start_step=4_999_999)
    assert next(batches)["targets"].tolist() == [9_999_998, 9_999_999]
    assert len(source.read) == 2
    assert next(batches, None) is None


@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_reads_and_puts_no_more_than_prefetch_batches_ahead(monkeypatch, prefetch):
    puts = []
    put = jax.device_put

    def counting_put(*arguments):
        puts.append(arguments)
        return put(*arguments)

    monkeypatch.setattr(jax, "device_put", counting_put)
    source = Counting(examples=40)
    batches = stream(source, range(40), batch_size=2, prefetch=prefetch)
    assert not source.read
    for used in range(1, 4):
        next(batches)
        # It does go that far: the next batches are on the device before they are asked for.
        wait_until(lambda used=used: len(puts) >= 2 * (used + prefetch))
        assert settled(lambda: len(source.read)) == 2 * (used + prefetch)
        # Two examples a batch, and two arrays.
        assert len(puts) == 2 * (used + prefetch)
    batches.close()


def test_a_used_batch_is_not_kept_alive():
    batches = stream(Counting(), range(EXAMPLES), batch_size=BATCH)
    used = weakref.ref(next(batches)["inputs"])
    wait_until(lambda: used() is None)
    batches.close()


def test_batches_are_put_where_they_are_asked_for():
    device = jax.devices()[-1]
    for batch in stream(Counting(), range(EXAMPLES), batch_size=BATCH, device=device):
        assert batch["inputs"].devices() == {device}
        assert batch["inputs"].committed
    for batch in stream(Counting(), range(EXAMPLES), batch_size=BATCH):
        assert not batch["inputs"].committed


@pytest.mark.parametrize("how", ["closed", "dropped", "exhausted", "never begun"])
def test_no_thread_is_left(how):
    batches = stream(Counting(), range(EXAMPLES), batch_size=BATCH, prefetch=3, threads=3)
    if how == "never begun":
        assert not reading_threads()
        return
    next(batches)
    assert reading_threads()
    if how == "closed":
        batches.close()
        assert next(batches, None) is None
    elif how == "dropped":
        del batches
    else:
        list(batches)
    wait_until(lambda: not reading_threads())


def test_a_closed_stream_reads_no_further():
    source = Counting(examples=10_000)
    batches = stream(source, range(10_000), batch_size=2)
    next(batches)
    batches.close()
    assert settled(lambda: len(source.read)) <= 2 * 3


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch_in_order(key, processes):
    order = epoch_order(key, 0, 20)  # batches of 8, 8 and 4
    sources = [Counting(20) for _ in range(processes)]
    shares = [
        list(stream(source, order, batch_size=8, process_index=index, process_count=processes))
        for index, source in enumerate(sources)
    ]
    together = [
        {name: np.concatenate([share[name] for share in step]) for name in ("inputs", "targets")}
        for step in zip(*shares, strict=True)
    ]
    chex.assert_trees_all_equal(together, list(stream(Counting(20), order, batch_size=8)))
    # Each example is read once, by one process.
    assert sorted(index for source in sources for index in source.read) == list(range(20))


def test_a_memory_map_is_read_where_it_is_used(tmp_path):
    # 80 GB: a sparse file, of which two batches are touched.
    path = tmp_path / "inputs.npy"
    shape = (20_000_000, 1000)
    inputs = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    order = np.random.default_rng(0).choice(shape[0], 64, replace=False)
    inputs[order] = np.arange(64)[:, None]
    arrays = Arrays(inputs=np.load(path, mmap_mode="r"), targets=np.zeros(shape[0], np.uint8))
    batches = stream(arrays, order, batch_size=32)
    assert np.concatenate([batch["inputs"][:, 0] for batch in batches]).tolist() == list(range(64))
    path.unlink()


def test_each_read_of_an_array_takes_one_batch(key):
    class Rows(np.ndarray):
        """Counts what is read of it."""

        def __getitem__(self, rows):
            read.append(np.asarray(rows).tolist())
            return np.asarray(super().__getitem__(rows))

    read: list[list[int]] = []
    inputs = np.arange(EXAMPLES * 3, dtype=np.float32).reshape(-1, 3).view(Rows)
    order = epoch_order(key, 0, EXAMPLES)
    batches = stream(Arrays(inputs, np.zeros(EXAMPLES)), order, batch_size=BATCH, start_step=2)
    next(batches)
    wait_until(lambda: len(read) == 3)
    assert read == [order[i : i + BATCH].tolist() for i in (10, 15, 20)]
    batches.close()


@pytest.mark.parametrize("source", [Broken, Together])
def test_a_broken_record_is_named_to_the_consumer(source):
    batches = stream(source(), range(EXAMPLES), batch_size=BATCH)
    assert next(batches)["targets"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match=r"example 7 .* got OSError: checksum differs; repair"):
        next(batches)
    assert next(batches, None) is None


def test_a_source_that_reads_several_at_once_is_asked_so():
    source = Together()
    found = list(stream(source, range(8, 18), batch_size=BATCH))
    assert source.calls == [[8, 9, 10, 11, 12], [13, 14, 15, 16, 17]]
    expected = stream(Counting(), range(8, 18), batch_size=BATCH)
    chex.assert_trees_all_equal(found, list(expected))


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"inputs": np.zeros(2, np.float32), "targets": 0}, r"got float32 of shape \(2,\) from"),
        ({"inputs": np.zeros(3), "targets": 0}, r"got float64 of shape \(3,\) from"),
        (
            {"inputs": np.zeros(3, np.float32)},
            "example 2 must have inputs and targets, got the names inputs; name",
        ),
    ],
)
def test_an_example_unlike_the_others_is_named(odd, message):
    examples = [*(Counting()[i] for i in range(2)), odd]
    with pytest.raises(DataError, match=message) as raised:
        next(stream(examples, range(3), batch_size=3))
    assert "example 2" in str(raised.value)


def test_an_error_in_decode_is_named():
    def decode(example):
        return {"inputs": example["inputs"], "targets": 1 // (int(example["targets"]) - 3)}

    with pytest.raises(DataError, match=r"example 3 .* got ZeroDivisionError"):
        next(stream(Counting(), range(EXAMPLES), batch_size=BATCH, decode=decode))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 24}, "at most the 23 examples of the order, got 24"),
        ({"start_step": -1}, "start_step must be at least 0, got -1"),
        ({"start_step": 6}, "at most the epoch's 5 steps, got 6"),
        ({"start_step": 5, "drop_last": True}, "at most the epoch's 4 steps, got 5"),
        ({"order": range(24)}, r"indices in 0\.\.22, .* got 0\.\.23"),
        ({"order": [-1, 2]}, r"got -1\.\.2"),
        ({"order": []}, "order must be a sequence of indices"),
        ({"order": np.zeros((2, 2), int)}, r"got int64 of shape \(2, 2\)"),
        ({"order": np.zeros(8)}, "got float64"),
        ({"prefetch": 0}, "prefetch must be at least 1, got 0"),
        ({"threads": 3}, "at most the 2 batches of prefetch, got 3"),
        ({"threads": 0}, "got 0"),
        ({"process_index": 2, "process_count": 2}, r"process_index must be in 0\.\.1.*got 2"),
        (
            {"process_index": 0, "process_count": 2},
            "shared evenly by 2 processes, got one of 5 .*drop_last=True .*another batch_size",
        ),
        # Batches of 4, and a last one of 3.
        ({"process_index": 0, "process_count": 2, "batch_size": 4}, "got one of 3"),
    ],
)
def test_what_no_batches_can_be_made_of_is_refused(settings, message):
    source = Counting()
    settings = {"order": range(EXAMPLES), "batch_size": BATCH, **settings}
    with pytest.raises(ValueError, match=message):
        stream(source, **settings)
    assert not source.read


@pytest.mark.parametrize(
    "name", ["batch_size", "start_step", "prefetch", "threads", "process_index", "process_count"]
)
def test_a_count_that_is_no_whole_number_is_refused(name):
    source = Counting()
    with pytest.raises(TypeError, match=rf"{name} must be a whole number, got 1\.5"):
        inspect.unwrap(stream)(source, range(EXAMPLES), **{"batch_size": BATCH, name: 1.5})
    assert not source.read


def test_numpys_integers_are_counts():
    counts = {"batch_size": BATCH, "start_step": 1, "prefetch": 2, "threads": 1}
    numpys = {name: np.int64(count) for name, count in counts.items()}
    found, expected = (
        [batch["targets"].tolist() for batch in stream(Counting(), range(EXAMPLES), **given)]
        for given in (numpys, counts)
    )
    assert found == expected


def test_a_last_batch_that_processes_cannot_share_may_be_dropped():
    found = stream(
        Counting(), range(23), batch_size=4, drop_last=True, process_index=1, process_count=2
    )
    assert [batch["targets"].tolist() for batch in found][:2] == [[2, 3], [6, 7]]


def test_arrays_that_do_not_fit_are_refused():
    uneven = Arrays(np.zeros((3, 1)), np.zeros(2))
    with pytest.raises(ValueError, match="got 3 inputs and 2 targets"):
        stream(uneven, range(3), batch_size=1)
    even = Arrays(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="decode must be None for Arrays"):
        stream(even, range(3), batch_size=1, decode=lambda example: example)


def test_a_missing_grain_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r'pip install "grain\b.* extra "stream"'):
        stream(Counting(), range(EXAMPLES), batch_size=BATCH)


def test_settings_of_the_calling_thread_hold(arrays):
    with jax.enable_x64(True):
        batches = stream(arrays, range(EXAMPLES), batch_size=BATCH)
        assert next(batches)["targets"].dtype == np.float64
    assert next(stream(arrays, range(EXAMPLES), batch_size=BATCH))["targets"].dtype == np.float32
    batches.close()


def test_a_prepared_copy_streams_as_it_loads(key, tmp_path, fashion_raw, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    from jaxdl.data import prepare

    folder = prepare("fashion_mnist", data_dir=tmp_path, raw_dir=fashion_raw)
    source = tfds.builder_from_directory(str(folder)).as_data_source("train")
    loaded = load("fashion_mnist", data_dir=tmp_path).train
    order = epoch_order(key, 0, len(loaded))
    found = list(stream(source, order, batch_size=8, decode=decode_tfds))
    expected = list(stream(loaded, order, batch_size=8))
    assert len(found) == 4
    chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_equal_dtypes(found, expected)


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxdl.data import Arrays
from jaxdl.data.streaming import stream

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("data"))
arrays = Arrays(np.arange(40.0, dtype=np.float32)[:, None], np.arange(40, dtype=np.int32))
order = np.random.default_rng(0).permutation(40)
batches = list(stream(arrays, order, batch_size=16, device=sharding))
assert [batch["inputs"].sharding.is_equivalent_to(sharding, 2) for batch in batches] == [True] * 3
np.testing.assert_array_equal(np.concatenate([batch["targets"] for batch in batches]), order)
for size, layout in [(20, sharding), (40, NamedSharding(mesh, PartitionSpec(None, "data")))]:
    try:
        stream(arrays, order, batch_size=size, device=layout)
    except ValueError as error:
        assert f"lay out the {size} examples" in str(error), error
    else:
        raise AssertionError(size)
unfinished = stream(arrays, order, batch_size=4)
next(unfinished)
print("ends with a stream still open")
"""

PROCESS = """
import sys
import jax
port, index = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxdl.data import Arrays
from jaxdl.data.streaming import stream

assert jax.device_count() == 4 and jax.local_device_count() == 2

def sharding(devices):
    return NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec("data"))

arrays = Arrays(np.arange(12.0, dtype=np.float32)[:, None], np.arange(12, dtype=np.int32))
order = np.random.default_rng(0).permutation(12)
batches = list(stream(arrays, order, batch_size=8, device=sharding(jax.devices())))
assert [batch["inputs"].shape for batch in batches] == [(8, 1), (4, 1)]
for step, batch in enumerate(batches):
    rows = order[step * 8 : (step + 1) * 8]
    for shard in batch["targets"].addressable_shards:
        np.testing.assert_array_equal(shard.data, rows[shard.index])
    total = jax.jit(lambda values: values.sum())(batch["targets"])
    assert int(total) == rows.sum()
try:
    stream(arrays, order, batch_size=8, device=sharding(jax.devices()[::-1]))
except ValueError as error:
    assert "order its mesh by process" in str(error), error
else:
    raise AssertionError("a mesh in another order was accepted")
jax.distributed.shutdown()
print("done")
"""


def test_batches_are_laid_out_over_devices():
    ended = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=with_devices(8),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert "still open" in ended.stdout


def test_two_processes_make_one_global_batch():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, port, str(index)],
            env=with_devices(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in running:
            out, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
            assert out.endswith("done\n")
    finally:
        for process in running:
            process.kill()
            process.communicate()

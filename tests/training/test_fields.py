"""What the arrays of a split must be, in every call that takes one; a run keeps its own copy."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data, losses, models, optimizers, training
from jaxdl.training.fields import on_device, on_host
from jaxdl.training.sweep.by_seed import BySeed

EXAMPLES, BATCH, KEY = 24, 8, jax.random.key(0)
DRAW = np.random.default_rng(0)
INPUTS = DRAW.normal(size=(EXAMPLES, 3)).astype(np.float32)
LABELS = DRAW.integers(0, 2, EXAMPLES)
RIGHT = data.Arrays(INPUTS, LABELS)
TASK = training.Task(models.MLP([2]), losses.cross_entropy)
SGD = optimizers.sgd(0.1)
RUN = training.make_run(TASK, SGD, batch_size=BATCH)


def by_fit(**splits):
    others = {"validation": None, "test": None}
    given = data.Dataset("mine", **{"train": RIGHT} | others | splits)
    return training.fit(TASK, given, SGD, epochs=1, batch_size=BATCH, key=KEY)


def by_run(**splits):
    return RUN(KEY, {"train": RIGHT, **splits}, training.orders(KEY, 1, EXAMPLES))


def by_sweep(**splits):
    member = functools.partial(RUN, data={"train": RIGHT, **splits})
    orders = {"orders": lambda key: training.orders(key, 1, EXAMPLES)}
    return training.sweep(member, seeds=1, by_seed=orders)


def by_evaluate(**splits):
    (split,) = splits.values()
    return RUN.evaluate(RUN.init(KEY, RIGHT), split)


WORDS = np.array(["no", "yes"])[LABELS].tolist()


def frame(**more):
    columns = {f"x{place}": INPUTS[:, place] for place in range(3)}
    return pytest.importorskip("pandas").DataFrame(columns | more)


def series(values=LABELS):
    return pytest.importorskip("pandas").Series(values)


def tensor(values=INPUTS):
    return pytest.importorskip("torch").tensor(values)


def arrays(inputs=INPUTS, targets=LABELS):
    return data.Arrays(inputs, targets)


WRONG = {
    "a ragged list": (lambda: arrays([[1.0], [1.0, 2.0]]), TypeError, "inputs.*ragged list of 2"),
    "a list with a hole": (lambda: arrays(targets=[None] * EXAMPLES), TypeError, "got object"),
    "a column of words": (lambda: arrays(frame(word=WORDS)), TypeError, "column 'word' of the inp"),
    "a gap in a frame": (
        lambda: arrays(frame(gap=[None] + [1.0] * (EXAMPLES - 1))), ValueError,
        "column 'gap' of the inputs.*no missing values, got 1",
    ),
    "a gap in a series": (
        lambda: arrays(targets=series([np.nan] + [1.0] * (EXAMPLES - 1))), ValueError,
        "the targets.*no missing values, got 1",
    ),
    "one of several": (
        lambda: arrays({"a": INPUTS, "b": {1, 2}}), TypeError, r"inputs\['b'\]",
    ),
    "a masked array": (lambda: arrays(np.ma.masked_array(INPUTS)), TypeError, "inputs.*numpy.Mask"),
    "big-endian": (
        lambda: arrays(INPUTS.astype(">f4")), TypeError, r"inputs.*bytes, got >f4; .*astype",
    ),
    "words": (lambda: arrays(INPUTS.astype(str)), TypeError, "inputs.*numbers, got <U"),
    "objects": (lambda: arrays(INPUTS.astype(object)), TypeError, "inputs.*numbers, got object"),
    "lengths": (lambda: arrays(targets=LABELS[1:]), ValueError, "24 inputs and 23 targets"),
    "nothing": (lambda: arrays(INPUTS[:0], LABELS[:0]), ValueError, "must have examples, got none"),
    "large labels": (
        lambda: arrays(targets=np.where(LABELS, 2**31, 0)), ValueError,
        "targets.*must fit int32, in which JAX holds int64, got 2147483648",
    ),
    "small labels": (
        lambda: arrays(targets=LABELS - 2**33), ValueError, "targets.*fit int32.*got -8589934592",
    ),
    "large integers": (
        lambda: arrays((INPUTS > 0) * np.uint64(2**32)), ValueError, "inputs.*uint32.*4294967296",
    ),
    "large floats": (
        lambda: arrays(INPUTS.astype(float) - 1e300), ValueError, "inputs.*must fit float32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize(
    ("way", "split"),
    [
        (by_fit, "train"),
        (by_fit, "validation"),
        (by_fit, "test"),
        (by_run, "train"),
        (by_run, "test"),
        (by_sweep, "train"),
        (by_sweep, "test"),
        (by_evaluate, "test"),
    ],
)
def test_what_is_no_array_is_named(way, split, case):
    make, error, text = WRONG[case]
    with pytest.raises(error, match=text) as caught:
        way(**{split: make()})
    assert "; " in str(caught.value)  # and the fix
    assert way is by_evaluate or f"the {split} split" in str(caught.value)


TAKEN = {
    "lists": lambda: arrays(INPUTS.tolist(), LABELS.tolist()),
    "a pair": lambda: (INPUTS, LABELS),
    "a list of two": lambda: [INPUTS, LABELS],
    "a mapping": lambda: {"inputs": INPUTS, "targets": LABELS},
    "a frame and a series": lambda: (frame(), series()),
    "tensors": lambda: (tensor(), tensor(LABELS)),
    "weights": lambda: (INPUTS, LABELS, [1.0] * EXAMPLES),
    "JAX": lambda: (jnp.asarray(INPUTS), jnp.asarray(LABELS)),
}


@pytest.mark.parametrize("case", TAKEN)
@pytest.mark.parametrize("way", [by_fit, by_run, by_sweep, by_evaluate])
def test_what_people_have_is_taken_in_every_call(way, case):
    """The loss of a split is that of the same numbers as arrays; weights of 1 round otherwise."""
    expected, found = (way(test=make()) for make in (lambda: RIGHT, TAKEN[case]))
    if way is by_fit:
        expected, found = (each.evaluate("test")["loss"] for each in (expected, found))
    if way is by_run:
        expected, found = expected[1], found[1]
    if way is by_sweep:
        expected, found = (dict(each.data_vars) for each in (expected, found))
        expected, found = (
            {name: each.values for name, each in held.items()} for held in (expected, found)
        )
    chex.assert_trees_all_close(expected, found, rtol=1e-6)


@pytest.mark.parametrize("way", [by_fit, by_run, by_sweep, by_evaluate])
@pytest.mark.parametrize("label", [-1, 2])
def test_labels_of_every_split_are_checked(way, label):
    wrong = np.where(np.arange(EXAMPLES) == 5, label, LABELS)
    for split in ("validation", "test"):
        with pytest.raises(ValueError, match=rf"labels must be in 0..1.*got {label} at example 5"):
            way(**{split: arrays(targets=wrong)})


def test_streams_and_steps_refuse_what_does_not_fit():
    large = arrays(targets=np.where(np.arange(EXAMPLES) == 20, 2**31, 0))
    with pytest.raises(ValueError, match=r"the targets of the source must fit int32.*2147483648"):
        by_fit(train=training.Streamed(large))
    with pytest.raises(TypeError, match=r"the targets of the train split of mine.*, got object"):
        by_fit(train=training.Streamed(arrays(targets=LABELS.astype(object))))
    state = RUN.init(KEY, RIGHT)
    batch = {"inputs": jnp.asarray(INPUTS), "targets": large.targets}
    for step, given in (
        (training.make_train_step(TASK, SGD), state),
        (training.make_eval_step(TASK), state.variables),
    ):
        with pytest.raises(ValueError, match="the targets of a batch must fit int32"):
            step(given, batch)


def test_with_64_bits_large_numbers_are_kept():
    with jax.enable_x64(True):
        by_run(test=arrays(targets=LABELS.astype(np.int64), inputs=INPUTS))
        assert on_device(np.array([2**40]))[0] == 2**40


def test_what_holds_no_examples_is_named():
    for split in ("train", "validation", "test"):
        for given in (INPUTS, (INPUTS,), {"inputs": INPUTS}, 3):
            with pytest.raises(
                TypeError, match=f"the {split} split of mine must be data.Arrays, got"
            ):
                by_fit(**{split: given})
    for given in (INPUTS, (INPUTS,), {"inputs": INPUTS}, 3, frame(), "mnist"):
        with pytest.raises(TypeError, match=r"dataset must hold examples: \(x, y\)"):
            training.fit(TASK, given, SGD, epochs=1, batch_size=BATCH, key=KEY)


def test_every_split_may_be_read_batch_by_batch():
    """With the same numbers, to the bit."""
    expected = by_fit(validation=RIGHT, test=RIGHT)
    streamed = training.Streamed((INPUTS, LABELS.tolist()))
    found = by_fit(train=streamed, validation=streamed, test=streamed)
    for name in ("train", "validation"):
        chex.assert_trees_all_equal(*(dict(getattr(r.history, name)) for r in (expected, found)))
    assert expected.evaluate("test") == found.evaluate("test")
    with pytest.raises(ValueError, match=r"inputs of every split must be alike, got \[3\]"):
        by_fit(validation=training.Streamed((INPUTS[:, :2], LABELS)))


def test_inputs_of_another_shape_are_refused_before_training():
    with pytest.raises(ValueError, match=r"inputs of every split must be alike, got \[3\].*\[2\]"):
        by_fit(test=arrays(INPUTS[:, :2]))


def aligned(values):
    """A copy in memory that JAX could use where it is on a CPU: it begins at a multiple of 64."""
    memory = np.empty(values.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    made = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    made[:] = values
    return made


def test_memory_that_can_be_written_to_is_copied():
    values = np.arange(64.0, dtype=np.float32)
    for keep in (on_device, on_host):
        given = aligned(values)
        seen = aligned(values)
        seen.flags.writeable = False  # a view: its base can still be written to
        kept = keep({"own": given, "view": seen})
        given[:] = -1
        seen.base[:] = 0
        np.testing.assert_array_equal(kept["own"], values)
        np.testing.assert_array_equal(kept["view"], values)


def test_a_file_that_is_only_read_is_used_where_it_is(tmp_path):
    np.save(tmp_path / "values.npy", INPUTS)
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    assert on_host(mapped) is mapped
    assert on_device(mapped).unsafe_buffer_pointer() == mapped.ctypes.data


def test_a_loaded_set_is_used_where_it_is_and_cannot_be_written_to():
    """Nobody can change it, not even through the memory that its arrays view."""
    loaded = data.load("digits").train.inputs
    with pytest.raises(ValueError, match="read-only"):
        loaded[0] = 0
    held = aligned(loaded)
    for part in (held, held.base):
        part.flags.writeable = False
    # Under a trace, too, as in a member of a sweep that knows its data.
    seen = []
    jax.make_jaxpr(lambda: seen.append(on_device(held)))()
    for kept in (on_device(held), *seen):
        assert kept.unsafe_buffer_pointer() == held.ctypes.data


@pytest.mark.parametrize("parallel", ["jit", "mesh"])
def test_data_overwritten_during_a_run_do_not_change_it(parallel):
    """Also on a mesh, where the host keeps the data and reads them again in each epoch."""
    if parallel == "mesh":
        kinds = (jax.sharding.AxisType.Auto,)
        parallel = jax.make_mesh((1,), ("batch",), devices=jax.devices()[:1], axis_types=kinds)
    results = []
    for overwrite in (False, True):
        inputs, targets = aligned(INPUTS), aligned(LABELS.astype(np.int32))
        held = aligned(INPUTS)
        given = data.Dataset("mine", arrays(inputs, targets), arrays(held, targets.copy()), None)

        def spoil(event, used=(inputs, targets, held), overwrite=overwrite):
            for array in used if overwrite else ():
                array[:] = 0

        results.append(
            training.fit(
                TASK, given, SGD, epochs=3, batch_size=BATCH, key=KEY, observers=[spoil],
                parallel=parallel,
            )
        )  # fmt: skip
    chex.assert_trees_all_equal(*(result.state.params for result in results))
    chex.assert_trees_all_equal(*(dict(result.history.validation) for result in results))


def test_data_overwritten_after_a_run_was_called_do_not_change_it():
    kept = []
    for overwrite in (False, True):
        inputs = aligned(np.tile(INPUTS, (100, 40)))
        split = arrays(inputs, np.tile(LABELS, 100))
        orders = training.orders(KEY, 3, len(split))
        state, _ = RUN(KEY, {"train": split}, orders)
        if overwrite:  # perhaps before the run has ended
            inputs[:] = 0
            orders[:] = 0
        kept.append(state.params)
    chex.assert_trees_all_equal(*kept)


def test_what_is_made_by_seed_is_copied_and_does_not_wrap():
    memory = aligned(np.zeros(3))

    def make(key):
        memory[:] = jax.random.uniform(key)
        return memory

    by_seed = BySeed("noise", make, False, np.array([0, 1]))
    first, second = by_seed.take(np.array([0, 1]))[0]
    assert first[0] != second[0]
    large = BySeed("noise", lambda key: np.array([2**31]), False, np.array([0]))
    with pytest.raises(ValueError, match="must fit int32, in which JAX holds int64"):
        large.take(np.array([0]))


@pytest.mark.parametrize("way", ["fit", "run"])
def test_the_key_of_a_run_that_goes_on_is_the_one_given(way):
    """Its orders and dropout follow from the key, not from the one that the state was made with."""
    task = training.Task(models.MLP([8, 2], dropout_rate=0.5), losses.cross_entropy)
    run = training.make_run(task, SGD, batch_size=BATCH)
    start, other = run.init(KEY, RIGHT), jax.random.key(1)

    def params(start, key):
        if way == "run":
            return run(key, {"train": RIGHT}, training.orders(key, 1, EXAMPLES), start)[0].params
        given = data.Dataset("mine", RIGHT, None, None)
        settings = {"epochs": 1, "batch_size": BATCH, "key": key, "state": start}
        return training.fit(task, given, SGD, **settings).state.params

    theirs = dataclasses.replace(start, key=jax.random.split(other)[1])
    chex.assert_trees_all_equal(params(start, other), params(theirs, other))
    assert (
        params(start, other)["dense_0"]["kernel"] != params(start, KEY)["dense_0"]["kernel"]
    ).any()


COUNTS = ("epochs", "batch_size", "steps_per_call", "checkpoint_every", "keep")


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [1.5, True, "3", np.float32(2)])
def test_counts_are_whole_numbers(name, value, tmp_path):
    settings = {"epochs": 1, "batch_size": BATCH, "key": KEY, "checkpoint_dir": tmp_path}
    with pytest.raises(TypeError, match=rf"^{name} must be a whole number, got .*; pass an int"):
        training.fit(TASK, data.Dataset("mine", RIGHT, None, None), SGD, **settings | {name: value})


def test_numpys_integers_are_counts(tmp_path):
    given = data.Dataset("mine", RIGHT, None, None)
    settings = {"epochs": 2, "batch_size": BATCH, "steps_per_call": 2, "checkpoint_every": 2}
    plain, theirs = (
        training.fit(
            TASK, given, SGD, key=KEY, checkpoint_dir=tmp_path / kind.__name__, keep=kind(1),
            **{name: kind(value) for name, value in settings.items()},
        )
        for kind in (int, np.int64)
    )  # fmt: skip
    chex.assert_trees_all_equal(plain.state.params, theirs.state.params)
    assert training.make_run(TASK, SGD, batch_size=np.int32(8)) == RUN
    assert training.orders(KEY, np.int64(2), np.int64(5)).shape == (2, 5)
    assert training.step_orders(KEY, jnp.int32(3), 5, batch_size=np.uint8(2)).shape == (3, 2)


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = data.Dataset("mine", RIGHT, None, None)
    settings = {"epochs": 1, "batch_size": BATCH, "key": KEY}
    training.fit(TASK, given, SGD, checkpoint_dir="~/run", **settings)
    training.sweep(lambda key: {"draw": jax.random.uniform(key)}, seeds=1, folder="~/sweep")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "sweep"]

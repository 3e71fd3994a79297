"""Observers, driven by events made by hand."""

import dataclasses
import functools
import inspect
import json
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_events import STEPS, dataset, events, run, state_of

from jaxdl import data, diagnostics, losses, metrics, models, observers, optimizers, training
from jaxdl.observers.chosen_metric import known_mode
from jaxdl.training.fit.observing import Change, Observer, as_observer, notify


def inside(event):
    return dataclasses.replace(event, epoch_ended=False, measured=None)


def drive(observer, values, *, memory=None, **settings):
    """The changes asked for, by epoch, until one ends the run; and the memory then."""
    memory = observer.init(state_of(run())) if memory is None else memory
    changes = {}
    for event in events(values, **settings):
        before = kinds(memory)
        memory, change = observer.observe(event, memory)
        assert kinds(memory) == before
        if change is not None:
            changes[event.epoch] = change
        if change is not None and change.stop:
            break
    return changes, memory


def kinds(tree):
    """What a compiled function is compiled for."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [
        (leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves
    ]


def changed_by(observer, event):
    _, change = observer.observe(event, ())
    return change.state


def mark(state):
    return state.params["dense_0"]["bias"][0].item()


# Early stopping


def test_stops_after_patience_epochs_without_improvement_and_restores_the_best():
    stopping = observers.early_stopping(patience=2)
    changes, memory = drive(stopping, [3.0, 2.0, 2.5, 2.0, 1.0], epochs=9)
    assert list(changes) == [4]  # an equal value is no improvement
    assert changes[4].stop == (
        "the validation loss has not improved for 2 epochs: best 2 in epoch 2"
    )
    assert mark(changes[4].state) == 2
    assert changes[4].state.step == 2 * STEPS
    assert memory.best_epoch == 2


def test_ends_with_the_best_state_where_the_epochs_run_out():
    changes, _ = drive(observers.early_stopping(patience=5), [3.0, 1.0, 2.0])
    assert list(changes) == [3]
    assert changes[3].stop is None
    assert mark(changes[3].state) == 2
    changes, _ = drive(observers.early_stopping(patience=5), [3.0, 2.0, 1.0])
    assert changes[3].state is None  # the last is the best


def test_without_restoring_no_state_is_kept():
    stopping = observers.early_stopping(patience=1, restore_best=False)
    changes, memory = drive(stopping, [1.0, 2.0], epochs=9)
    assert changes[2].state is None
    assert memory.state == ()


@pytest.mark.parametrize(
    ("settings", "values", "stopped"),
    [
        ({"min_delta": 0.5}, [3.0, 2.75, 2.5], 3),  # better, by no more than 0.5
        ({"min_delta": 0.5}, [3.0, 2.4, 1.8], None),
        ({"mode": "max"}, [1.0, 2.0, 1.0, 1.0], 4),
        ({"metric": "accuracy", "mode": "max"}, [3.0, 2.0, 2.0, 2.0], 4),
        ({"split": "train"}, [1.0, 1.0, 1.0], 3),
        ({}, [1.0, np.nan, np.nan], 3),
        ({}, [np.nan, np.nan], 2),
        ({}, [np.inf, 2.0, 1.0], None),
    ],
)
def test_what_counts_as_improvement(settings, values, stopped):
    stopping = observers.early_stopping(patience=2, **settings)
    changes, _ = drive(stopping, values, epochs=99)
    assert (list(changes) or [None]) == [stopped]


def test_nothing_is_restored_where_no_epoch_was_good():
    changes, _ = drive(observers.early_stopping(patience=1), [np.nan], epochs=9)
    assert changes[1].stop.endswith("for 1 epochs: it was nan in epoch 1 and never finite")
    assert changes[1].state is None


def test_a_memory_that_was_saved_goes_on_as_if_it_never_was():
    values = [3.0, 1.1, 2.0, 2.0, 1.1, 9.0]
    stopping = observers.early_stopping(patience=3)
    at_once, _ = drive(stopping, values, epochs=9)
    _, memory = drive(stopping, values[:3], epochs=9)
    saved = jax.tree.map(
        lambda leaf: (
            leaf
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.asarray(np.asarray(leaf))
        ),
        memory,
    )
    resumed, _ = drive(stopping, values, memory=saved, first_epoch=4, epochs=9)
    assert list(resumed) == list(at_once) == [5]
    chex.assert_trees_all_equal(resumed[5].state.params, at_once[5].state.params)


def test_the_best_state_is_a_copy():
    # The compiled step donates the state that it is given.
    stopping = observers.early_stopping(patience=1)
    event = next(events([1.0], epochs=9))
    memory, _ = stopping.observe(event, stopping.init(event.state))
    for leaf in jax.tree.leaves(event.state):
        leaf.delete()
    assert mark(memory.state) == 1


def test_inside_an_epoch_nothing_is_decided():
    event = inside(next(events([1.0])))
    for observer in (observers.early_stopping(patience=1), observers.report_plateau()):
        memory = observer.init(event.state)
        assert observer.observe(event, memory) == (memory, None)


# The plateau


def test_a_plateau_hears_of_each_epoch():
    optimizer = optimizers.adam(optimizers.plateau(1.0, mode="max", factor=0.5, patience=1))
    a_run, observer = run(optimizer), observers.report_plateau("accuracy")
    observer.check(a_run)
    opt_state, rates = state_of(a_run).opt_state, []
    for event in events([2.0, 1.0, 1.0, 1.0, 1.0], a_run):  # the loss; 10 minus it is the accuracy
        state = dataclasses.replace(event.state, opt_state=opt_state)
        asked_for = changed_by(observer, dataclasses.replace(event, state=state))
        opt_state = asked_for.opt_state
        assert mark(asked_for) == event.epoch  # all else is the event's
        rates.append(optimizers.current_learning_rate(opt_state).item())
    # 8, 9, and then no better: 2 bad epochs are more than a patience of 1.
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5]


def test_a_plateau_of_one_layer_is_found():
    optimizer = optimizers.sgd(optimizers.plateau(1.0))
    named = optimizers.by_layer({"dense_0": optimizer, "*": None})
    observers.report_plateau().check(run(named))


def test_a_plateaus_state_keeps_its_shapes_and_types():
    # Or every epoch would compile the step anew.
    optimizer = optimizers.sgd(optimizers.plateau(1.0))
    event = next(events([1.0], run(optimizer)))
    asked_for = changed_by(observers.report_plateau(), event)

    assert kinds(asked_for.opt_state) == kinds(event.state.opt_state)


# What cannot be served


@pytest.mark.parametrize(
    ("observer", "a_run", "text"),
    [
        (observers.early_stopping("f1", patience=1), run(), r"\['loss', 'accuracy'\], got 'f1'"),
        (
            observers.early_stopping(patience=1),
            run(dataset=dataset(validation=False)),
            "noise has none",
        ),
        (observers.report_plateau(), run(), "must hold the state of a plateau"),
    ],
)
def test_a_run_that_cannot_be_served_is_refused_before_it_starts(observer, a_run, text):
    with pytest.raises(ValueError, match=text):
        observer.check(a_run)


@pytest.mark.parametrize(
    ("make", "settings", "text"),
    [
        (observers.early_stopping, {"patience": 0}, "at least 1, got 0"),
        (observers.early_stopping, {"patience": True}, "whole number, got True"),
        (observers.early_stopping, {"patience": 1.5}, r"whole number, got 1\.5"),
        (observers.tensorboard, {"folder": "nowhere", "every": 1.5}, "every must be a whole"),
        (observers.propagation_every, {"epochs": "3", "report": print}, "epochs must be a whole"),
        (observers.early_stopping, {"patience": 1, "min_delta": -1.0}, "min_delta"),
        (observers.propagation_every, {"epochs": 0, "report": print}, "at least 1, got 0"),
        (
            observers.propagation_every,
            {"epochs": 1, "report": print, "examples": 1},
            "at least 2, got 1",
        ),
        (observers.sharpness_every, {"epochs": 0, "report": print}, "at least 1, got 0"),
        (
            observers.sharpness_every,
            {"epochs": 1, "report": print, "batch_size": 0},
            "batch_size must be at least 1",
        ),
        (observers.attention_every, {"epochs": 1.5, "report": print}, "epochs must be a whole"),
        (
            observers.attention_every,
            {"epochs": 1, "report": print, "examples": 0},
            "at least 1, got 0",
        ),
        (observers.tensorboard, {"folder": "nowhere", "every": 0}, "every must be at least 1"),
        (observers.tensorboard, {"folder": "nowhere", "bins": 0}, "bins must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, settings, text):
    with pytest.raises((ValueError, TypeError), match=text):
        make(**settings)


def test_unknown_words_are_refused():
    stopping: Any = inspect.unwrap(observers.early_stopping)
    plateau: Any = inspect.unwrap(observers.report_plateau)
    with pytest.raises(ValueError, match="mode must be one of min, max, got 'up'"):
        stopping(patience=1, mode="up")
    for make in (functools.partial(stopping, patience=1), plateau):
        with pytest.raises(ValueError, match="split must be one of validation, train, got 'test'"):
            make(split="test")


# Telling several


def test_each_observer_sees_what_those_before_it_asked_for():
    event = next(events([1.0]))
    other = state_of(run(), mark=7.0)
    seen = []

    def change(event):
        return Change(state=other)

    def look(event):
        seen.append(mark(event.state))
        return Change(stop="first")

    told = [as_observer(each) for each in (look, change, look, lambda e: Change(stop="second"))]
    notified = notify(told, [(), (), (), ()], event)
    assert seen == [1.0, 7.0]
    assert notified.state is other
    assert (notified.stop, notified.errors) == ("first", ())


def test_an_observer_that_raises_leaves_the_others_their_event():
    def fail(event, memory):
        raise OSError("disk full")

    def add(event, memory):
        return memory + 1, None

    counting, failing = Observer(add), Observer(fail)
    event = next(events([1.0]))
    notified = notify([counting, failing, counting], [1, 2, 3], event)
    assert notified.memories == (2, 2, 4)
    assert [str(error) for error in notified.errors] == ["disk full"]


def test_a_plain_function_is_called_at_the_ends_of_epochs():
    seen = []
    observer = as_observer(lambda event: seen.append(event.epoch))
    for event in events([1.0, 2.0]):
        observer.observe(inside(event), ())
        observer.observe(event, ())
    assert seen == [1, 2]
    assert as_observer(observer) is observer
    # Not through the types, which the tests check and a user's process does not.
    unchecked: Any = inspect.unwrap(as_observer)
    with pytest.raises(TypeError, match="call the factory"):
        unchecked("early_stopping")


# history.jsonl


def test_the_file_has_a_line_an_epoch(tmp_path):
    path = tmp_path / "new" / "history.jsonl"
    drive(observers.history_lines(path), [2.0, np.nan])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {
            "epoch": epoch,
            "step": STEPS * epoch,
            "seconds": 0.5,
            "train": {"loss": train, "accuracy": 0.25},
            "validation": {"loss": validation, "accuracy": accuracy},
        }
        for epoch, train, validation, accuracy in ((1, 3.0, 2.0, 8.0), (2, None, None, None))
    ]
    assert observers.read_lines(path) == lines


def test_after_a_resume_no_epoch_is_missing_or_there_twice(tmp_path):
    path, values = tmp_path / "history.jsonl", [5.0, 4.0, 3.0, 2.0]
    drive(observers.history_lines(path), values)
    whole = path.read_text()
    # Killed in epoch 4, in the midst of a line, and resumed from a checkpoint in epoch 3.
    path.write_text(whole[: whole.index('"epoch": 4') + 20])
    drive(observers.history_lines(path), values, first_epoch=3)
    assert path.read_text() == whole
    # A line that was lost is written again.
    path.write_text("".join(whole.splitlines(keepends=True)[1:]))
    drive(observers.history_lines(path), values, first_epoch=3)
    assert path.read_text() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["history.jsonl"]


def test_a_run_that_goes_on_from_a_state_adds_to_the_file(tmp_path):
    path = tmp_path / "history.jsonl"
    drive(observers.history_lines(path), [5.0, 4.0])
    before = path.read_text()
    (event,) = events([3.0])
    later = dataclasses.replace(event, step=3 * STEPS)  # its own history has one epoch
    observers.history_lines(path).observe(later, ())
    assert path.read_text().startswith(before)
    assert [line["step"] for line in observers.read_lines(path)] == [4, 8, 12]


def test_a_file_of_other_things_is_not_overwritten(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("remember the milk\n")
    observer = observers.history_lines(path)
    with pytest.raises(ValueError, match=r"line 1 of .* got 'remember the milk"):
        observer.observe(next(events([1.0])), ())
    assert path.read_text() == "remember the milk\n"


# Propagation


def test_propagation_is_measured_every_so_many_epochs_and_at_the_end():
    kept = []
    observer = observers.propagation_every(
        2, lambda event, measured: kept.append((event.epoch, measured)), examples=7
    )
    drive(observer, [1.0] * 5)
    assert [epoch for epoch, _ in kept] == [2, 4, 5]
    assert kept[0][1].names == ("dense_0", "dense_0/activation", "dense_1")
    assert kept[0][1].shapes[0] == (7, 6)
    # All weights are the epoch's number: 25 x 6 of them in the first layer.
    assert kept[0][1].weight_norm[0] == pytest.approx(2 * np.sqrt(25 * 6), rel=1e-6)


def test_propagation_reads_a_stream_once():
    # The split's examples are read by index, as a stream reads them.
    reads, kept = [], []
    given = dataset()

    class Source:
        def __len__(self):
            return len(given.train)

        def __getitem__(self, index):
            reads.append(int(index))
            return {name: getattr(given.train, name)[index] for name in ("inputs", "targets")}

    a_run = run(dataset=given)
    in_memory, streamed = list(events([1.0, 1.0], a_run)), run(dataset=dataset())
    object.__setattr__(streamed.dataset, "train", Source())
    observer = observers.propagation_every(
        1, lambda event, measured: kept.append(measured), examples=7
    )
    observer.observe(in_memory[0], ())
    for event in in_memory:
        observer.observe(dataclasses.replace(event, setup=streamed), ())
    assert sorted(reads) == list(range(7))
    np.testing.assert_array_equal(kept[0].stddev, kept[1].stddev)


def test_propagation_is_kept_in_files(tmp_path):
    drive(observers.propagation_every(1, tmp_path / "p", updates=False), [1.0, 1.0])
    assert sorted(file.name for file in (tmp_path / "p").iterdir()) == [
        "propagation_000000004.npz",
        "propagation_000000008.npz",
    ]
    with np.load(tmp_path / "p" / "propagation_000000008.npz", allow_pickle=False) as loaded:
        assert loaded["names"].tolist() == ["dense_0", "dense_0/activation", "dense_1"]
        chex.assert_shape([loaded["stddev"], loaded["gradient_stddev"]], (3,))
        assert "update_ratio" not in loaded


# Whether a metric should rise


def squared_gap(outputs, targets):
    """A metric that jaxdl does not know."""
    return metrics.accuracy(outputs, targets)


def with_metrics(a_run, **named):
    return dataclasses.replace(a_run, task=dataclasses.replace(a_run.task, metrics=named))


def test_the_best_epoch_of_an_accuracy_is_the_highest():
    stopping = observers.early_stopping("accuracy", patience=2)
    changes, memory = drive(stopping, [3.0, 1.0, 2.0, 2.5])  # the accuracy is 10 minus it
    assert list(changes) == [4]
    assert mark(changes[4].state) == int(memory.best_epoch) == 2
    assert float(memory.best) == 9


def test_the_function_tells_whether_a_metric_should_rise():
    a_run = with_metrics(
        run(),
        acc=metrics.accuracy,
        error=losses.cross_entropy,
        of_split=metrics.of_split(metrics.f1, predict=metrics.predicted_class),
        top=functools.partial(metrics.top_k, k=2),
        own=squared_gap,
    )
    known = {name: known_mode(a_run, name) for name in ("loss", *a_run.task.metrics)}
    assert known == {
        "loss": "min", "acc": "max", "error": "min", "of_split": "max", "top": "max", "own": None
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"whether 'own' should rise or fall.*mode=\"max\""):
        observers.early_stopping("own", patience=1).check(a_run)
    observers.early_stopping("own", mode="max", patience=1).check(a_run)


@pytest.mark.parametrize(("mode", "metric"), [("min", "accuracy"), ("max", "loss")])
def test_a_plateau_that_waits_for_the_wrong_side_is_refused(mode, metric):
    other = {"min": "max", "max": "min"}[mode]

    def check(mode):
        a_run = run(optimizers.adam(optimizers.plateau(1.0, mode=mode)))
        observers.report_plateau(metric).check(a_run)

    with pytest.raises(ValueError, match=rf"must have mode='{other}'.*got mode='{mode}'"):
        check(mode)
    check(other)


# Attention


def test_attention_follows_a_run_and_is_kept_in_files(tmp_path):
    made = data.brackets(jax.random.key(0), length=8, examples=32, test_examples=4)
    model = models.Transformer(
        4, features=8, layers=2, heads=2, outputs=3, length=8, dropout_rate=0.1, blocks="scan"
    )
    kept = []
    training.fit(
        model, made, optimizers.adam(0.1), epochs=3, batch_size=16, loss=losses.cross_entropy,
        key=jax.random.key(1),
        observers=[
            observers.attention_every(2, lambda *told: kept.append(told), examples=7),
            observers.attention_every(2, tmp_path / "a", examples=7),
        ],
    )  # fmt: skip
    assert [event.epoch for event, _ in kept] == [2, 3]
    assert all(seen.names[1] == "blocks[1]/attention/weights" for _, seen in kept)
    # The same as asked directly of the last state, without dropout.
    event, seen = kept[-1]
    again = diagnostics.attention(
        model, event.state.variables, {"inputs": made.train.inputs[:7]}, train=False
    )
    np.testing.assert_allclose(seen.largest_logit, again.largest_logit, rtol=1e-5)
    files = sorted((tmp_path / "a").iterdir())
    assert [file.name for file in files] == ["attention_000000004.npz", "attention_000000006.npz"]
    with np.load(files[1], allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["largest_logit"], seen.largest_logit)
        assert loaded["keys"].tolist() == [8, 8]


def test_a_model_without_attention_says_so_before_the_first_step():
    seen = []
    with pytest.raises(ValueError, match=r"must have an attention, .* got MLP"):
        training.fit(
            models.MLP([3]), data.Dataset("x", run().dataset.train, None, None),
            optimizers.sgd(0.1), loss=losses.cross_entropy, epochs=3, batch_size=5,
            key=jax.random.key(0), observers=[seen.append, observers.attention_every(3, print)],
        )  # fmt: skip
    assert not seen

"""The page of a run: what it shows, when it is written, and what it does to the run (nothing)."""

import contextlib
import dataclasses
import json
import re
import signal
from html.parser import HTMLParser

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_events import STEPS, dataset, events, run

from jaxdl import data, diagnostics, losses, metrics, models, observers, optimizers, training
from jaxdl.layers import BatchNorm
from jaxdl.observers import page_run
from jaxdl.observers.live_page import clipped_share

SGD = optimizers.sgd(0.25)


class Closed(HTMLParser):
    """Elements opened and closed in order; the attributes that would fetch something."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def text_of(folder):
    """The page, which is whole and needs no other file."""
    text = (folder / "page.html").read_text(encoding="utf-8")
    found = Closed()
    found.feed(text)
    assert found.open == found.addresses == []
    assert "nan," not in text
    assert ",nan" not in text
    return text


def state_of_page(text):
    return re.search(r"<p id=state[^>]*>(.*?)</p>", text, re.DOTALL).group(1)


def titles_of(folder):
    return {title.strip() for title in re.findall(r"<figcaption>([^<(]+)", text_of(folder))}


def goes_on(text):
    return "data-gap=" in text


def kept(folder):
    return [json.loads(line) for line in (folder / "page.jsonl").read_text().splitlines()]


def watch(folder, made, **settings):
    observer = observers.page(folder, **{"overhead": 1.0, "examples": 10} | settings)
    with contextlib.closing(observer):
        for event in made:
            assert observer.observe(event, ()) == ((), None)


def fit(folder=None, *, model=models.MLP([6, 3]), optimizer=SGD, more=(), **settings):  # noqa: B008
    watching = [] if folder is None else [observers.page(folder, examples=10)]
    return training.fit(
        model, dataset(), optimizer, **{
            "loss": losses.cross_entropy, "metrics": [metrics.accuracy], "epochs": 3,
            "batch_size": 10, "key": jax.random.key(0), "observers": [*watching, *more],
        } | settings,
    )  # fmt: skip


# What a run is shown as


def test_a_run_is_watched_and_not_changed(tmp_path):
    model = models.MLP([6, 3], norm=BatchNorm, dropout_rate=0.5)
    watched, plain = (fit(folder, model=model) for folder in (tmp_path, None))
    chex.assert_trees_all_equal(watched.state.params, plain.state.params)
    chex.assert_trees_all_equal(watched.state.variables, plain.state.variables)
    text = text_of(tmp_path)
    assert state_of_page(text).startswith("Ended at ")
    assert not goes_on(text)
    for name, values in (
        ("train", watched.history.train), ("validation", watched.history.validation),
    ):  # fmt: skip
        for metric in ("loss", "accuracy"):
            assert f"<dt>{name} {metric}</dt><dd>{values[metric][-1]:.4g}</dd>" in text
    titles = titles_of(tmp_path)
    assert {"loss", "accuracy", "learning rate", "examples a second"} <= titles
    assert {"signal by layer", "gradient over time", "dense_0", "dense_0/kernel"} <= titles
    # Only two epochs are sure to be measured: the clock decides about those between.
    measured = [line["step"] for line in kept(tmp_path) if "signal" in line]
    assert {2, 6} <= set(measured) <= {2, 4, 6}


def test_while_it_lasts_it_says_where_the_run_stands(tmp_path):
    (event,) = events([2.0], epochs=4)
    observer = observers.page(tmp_path, examples=10)
    observer.observe(event, ())
    text = text_of(tmp_path)
    assert state_of_page(text).startswith("Running: epoch 1 of 4 ended at ")
    assert goes_on(text)
    # The made epoch took half a second, and three are left.
    assert "<dt>time left</dt><dd>1.5 s</dd>" in text
    # 20 examples, 5 a step, in half a second.
    assert "<dt>examples a second</dt><dd>40</dd>" in text
    assert 'aria-label="loss: train: 3; valid.: 2"' in text


def test_signal_and_gradient_are_those_of_propagation(tmp_path):
    result = fit(tmp_path, epochs=1)
    batch = {name: getattr(result.dataset.train, name)[:10] for name in ("inputs", "targets")}
    measured = diagnostics.propagation(result.task, result.state.variables, batch)
    (line,) = kept(tmp_path)
    rows = [row for row, has in enumerate(measured.has_weights) if has]
    assert list(line["signal"]) == ["dense_0", "dense_1"]
    # sqrt(mean^2 + variance); the gradient's is summed over the units of a row.
    squares = np.square(measured.mean) + measured.variance
    np.testing.assert_allclose(list(line["signal"].values()), np.sqrt(squares[rows]), rtol=1e-5)
    units = np.array([6, 3])
    squares = np.square(measured.gradient_mean) + measured.gradient_variance
    expected = np.sqrt(squares[rows] * units)
    np.testing.assert_allclose(list(line["gradient"].values()), expected, rtol=1e-5)
    kernel = np.asarray(result.state.params["dense_0"]["kernel"], np.float64)
    expected = np.quantile(kernel, [0.025, 0.25, 0.5, 0.75, 0.975])
    np.testing.assert_allclose(line["weights"]["dense_0/kernel"], expected, rtol=1e-5)
    assert line["rate"] == 0.25


def test_what_advise_says_is_shown(tmp_path):
    # All weights are equal to 0: every unit is the same, and no gradient goes back.
    (event,) = events([1.0], first_epoch=1)
    zero = jax.tree.map(jnp.zeros_like, event.state.params)
    event = dataclasses.replace(event, state=dataclasses.replace(event.state, params=zero))
    watch(tmp_path, [event])
    batch = {name: getattr(event.setup.dataset.train, name)[:10] for name in ("inputs", "targets")}
    measured = diagnostics.propagation(
        event.setup.task, event.state.variables, batch,
        optimizer=event.setup.optimizer, opt_state=event.state.opt_state,
    )  # fmt: skip
    found = diagnostics.advise(measured)
    assert found
    for each in found:
        assert each.sentence in text_of(tmp_path)


def test_the_share_that_was_clipped(tmp_path):
    clip = optimizers.recorded(optimizers.clip_by_global_norm(1e-3), clipped_share, steps=4)
    fit(tmp_path, optimizer=optimizers.chain(clip, SGD))
    text = text_of(tmp_path)
    # Every step is: 4 of the 6 are recorded.
    assert re.search(r'aria-label="share clipped: steps: 1 to 1, between 1 and 1; entries', text)


def test_an_optimizer_that_clips_unseen_gets_a_hint(tmp_path):
    hint = "The optimizer clips. To see how often"
    fit(tmp_path / "clips", optimizer=optimizers.chain(optimizers.clip_by_value(0.1), SGD))
    assert hint in text_of(tmp_path / "clips")
    fit(tmp_path / "plain")
    assert hint not in text_of(tmp_path / "plain")


def test_clipped_entries_are_counted():
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    for clip, share in (
        (optimizers.clip_by_value(3.5), 1 / 3),
        (optimizers.clip_by_global_norm(5.0), 0.0),
        (optimizers.clip_by_global_norm(1.0), 2 / 3),  # a 0 stays 0
    ):
        updates, _ = clip.update(gradients, clip.init(gradients))
        assert clipped_share(gradients, updates)["clipped"].item() == pytest.approx(share)


def test_without_measuring_there_are_the_curves_alone(tmp_path):
    watch(tmp_path, events([2.0, 1.0]), every=None)
    text = text_of(tmp_path)
    assert "advise" not in text
    assert "Signal" not in text
    assert [sorted(line) for line in kept(tmp_path)] == [["rate", "step"]] * 2


# When it is written


def test_a_page_that_costs_more_than_its_share_waits(tmp_path, monkeypatch):
    clock = iter(range(10**6))
    # Each page and each measurement takes one second of this clock.
    monkeypatch.setattr(page_run.time, "perf_counter", lambda: float(next(clock)))
    written = []
    observer = observers.page(tmp_path, examples=10, overhead=0.8)
    with contextlib.closing(observer):
        for event in events([1.0] * 12):
            observer.observe(event, ())
            text = text_of(tmp_path)
            if f"epoch {event.epoch} of 12 ended" in state_of_page(text):
                written.append(event.epoch)
    # A page of 1 s at 0.4 of the time needs 2.5 s, which are 5 epochs of half a second. The cost of
    # the second measurement is a guess.
    assert written == [1, 6, 11]
    assert state_of_page(text_of(tmp_path)).startswith("Ended")
    measured = [line["step"] // STEPS for line in kept(tmp_path) if "signal" in line]
    assert measured == [1, 2, 7, 12]


def test_every_so_many_epochs(tmp_path):
    watch(tmp_path, events([1.0] * 5), every=2)
    measured = [line["step"] // STEPS for line in kept(tmp_path) if "signal" in line]
    assert measured == [1, 2, 4, 5]


def test_inside_an_epoch_nothing_is_written(tmp_path):
    (event,) = events([1.0])
    watch(tmp_path / "new", [dataclasses.replace(event, epoch_ended=False, measured=None)])
    assert not (tmp_path / "new").exists()


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    observer = observers.page(tmp_path / "new")
    observer.check(run())
    watch(tmp_path / "new", events([1.0]))
    observer.close()
    assert not (tmp_path / "new").exists()


# How it ends


def test_a_run_that_an_observer_stops(tmp_path):
    fit(tmp_path, epochs=5, more=[lambda event: training.Change(stop="seen enough")])
    assert re.match(r"Ended at .* early, after epoch 1 of 5\.", state_of_page(text_of(tmp_path)))


def test_a_run_that_diverges_has_its_last_steps_and_the_error(tmp_path):
    with pytest.raises(training.NonFiniteError) as caught:
        fit(tmp_path, optimizer=optimizers.sgd(1e38))
    text = text_of(tmp_path)
    assert not goes_on(text)
    assert "by an error, in its first epoch. NonFiniteError: step" in state_of_page(text)
    assert caught.value.quantity in state_of_page(text)


def test_an_error_around_a_run_did_not_end_it(tmp_path):
    try:
        raise KeyError("before")
    except KeyError:
        fit(tmp_path)
    assert re.fullmatch(r"Ended at [^.]*\.", state_of_page(text_of(tmp_path)))


def test_an_interrupted_run_says_so_and_goes_on_with_all_of_it(tmp_path):
    def interrupt(event):
        if event.epoch == 2:
            signal.raise_signal(signal.SIGTERM)

    settings = {"epochs": 4, "checkpoint_dir": tmp_path / "run"}
    with pytest.raises(SystemExit):
        fit(tmp_path / "a", more=[interrupt], **settings)
    text = text_of(tmp_path / "a")
    assert re.match(r"Interrupted at .* after epoch 2 of 4\.", state_of_page(text))
    before = kept(tmp_path / "a")
    # Killed in the midst of the third epoch's line, after that of an epoch that is trained again.
    with (tmp_path / "a" / "page.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "rate": 9.0}) + '\n{"step": 8, "ra')
    (tmp_path / "a" / "page.html").write_text("nothing that could be read")
    whole = fit(tmp_path / "a", more=[lambda event: None], **settings)
    after = kept(tmp_path / "a")
    assert after[:2] == before
    assert [line["step"] for line in after] == [2, 4, 6, 8]
    assert after[2]["rate"] == 0.25
    losses_of = whole.history.train["loss"]
    told = f"loss: train: {losses_of[0]:.4g} to {losses_of[-1]:.4g}"
    assert told in text_of(tmp_path / "a")


def test_a_new_run_in_a_used_folder_begins_anew(tmp_path):
    fit(tmp_path, epochs=4)
    fit(tmp_path, epochs=2)
    assert [line["step"] for line in kept(tmp_path)] == [2, 4]


# What it cannot do


def test_a_folder_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "page.html").mkdir(parents=True)
    started = []
    for folder in ("file", "file/inside", "taken"):
        with pytest.raises(OSError, match=r"must be one that can be written.*pass another folder"):
            fit(tmp_path / folder, more=[started.append])
    (tmp_path / "page.jsonl").write_text("remember the milk\n")
    with pytest.raises(ValueError, match=r"line 1 of .* got 'remember the milk"):
        fit(tmp_path, more=[started.append])
    assert started == []


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"examples": 1}, "examples must be at least 2, got 1"),
        ({"overhead": 0.0}, "above 0 and at most 1, got 0.0"),
        ({"overhead": 1.5}, "above 0 and at most 1, got 1.5"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, text):
    with pytest.raises(ValueError, match=text):
        observers.page(tmp_path, **settings)


def test_a_measurement_that_fails_is_told_and_the_run_goes_on(tmp_path):
    # `sam` needs more than the gradient.
    with pytest.warns(UserWarning, match=r"observers\.page: Signal and gradient could not be"):
        result = fit(tmp_path, optimizer=optimizers.sam(SGD))
    assert len(result.history.seconds) == 3
    assert "Signal and gradient could not be measured" in text_of(tmp_path)
    fit(
        tmp_path, optimizer=optimizers.sam(SGD), observers=[observers.page(tmp_path, updates=False)]
    )
    assert "could not be measured" not in text_of(tmp_path)


def test_a_page_that_cannot_be_written_does_not_end_the_run(tmp_path):
    folder = tmp_path / "page"

    def replace(event):
        if event.epoch == 1:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
            folder.write_text("in the way")

    with pytest.warns(UserWarning, match=r"observers\.page: The page could not be written"):
        result = fit(folder, more=[replace])
    assert len(result.history.seconds) == 3


# Where runs differ


def test_a_stream_and_an_optimizer_without_a_rate(tmp_path):
    import optax

    given = dataset()
    split = data.Streamed(list(zip(given.train.inputs, given.train.targets, strict=True)))
    training.fit(
        models.MLP([6, 3]), dataclasses.replace(given, train=split), optax.sgd(0.1),
        loss=losses.cross_entropy, epochs=2, batch_size=10, key=jax.random.key(0),
        observers=[observers.page(tmp_path, examples=10)],
    )  # fmt: skip
    titles = titles_of(tmp_path)
    assert "signal by layer" in titles
    assert "learning rate" not in titles


def test_losses_that_are_not_finite_leave_gaps(tmp_path):
    watch(tmp_path, events([np.nan, 1.0, np.inf, 1e300]))
    assert "valid.: 1 to 1e+300" in text_of(tmp_path)


def test_attention_has_its_panels(tmp_path):
    made = data.brackets(jax.random.key(0), kinds=2, length=8, examples=64, test_examples=4)
    model = models.Transformer(4, features=8, layers=2, heads=2, outputs=3, length=8)
    training.fit(
        model, made, optimizers.adam(0.5), epochs=6, batch_size=16, loss=losses.cross_entropy,
        key=jax.random.key(1), observers=[observers.page(tmp_path, overhead=1.0)],
    )  # fmt: skip
    assert {"largest |logit|", "entropy", "queries on one key"} <= titles_of(tmp_path)
    # Told apart by what differs in their paths.
    assert "block_0</text>" in text_of(tmp_path)
    for line in kept(tmp_path):
        if "signal" in line:
            assert set(line["largest_logit"]) == {
                f"block_{layer}/attention/weights" for layer in range(2)
            }


def test_a_network_without_attention_has_no_such_panels(tmp_path):
    watch(tmp_path, events([1.0, 0.5]))
    assert "largest |logit|" not in titles_of(tmp_path)
    assert all("largest_logit" not in line for line in kept(tmp_path))

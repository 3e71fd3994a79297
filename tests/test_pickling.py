"""What is made here pickles: a fresh process computes the same from it, to the bit."""

import copy
import functools
import inspect
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pickled
import pytest
import run_events
from flax import nnx
from processes import STRICT_PYTHON, environment

from jaxdl import (
    activations,
    calling,
    data,
    initializers,
    layers,
    losses,
    metrics,
    models,
    observers,
    optimizers,
    training,
)
from jaxdl.data import augmentation
from jaxdl.factories import Made, factory
from jaxdl.optimizers import schedules
from jaxdl.training.sweep.axes import make_axis

VECTORS, ARRAYS = pickled.VECTORS, data.Arrays(np.arange(12.0).reshape(4, 3), np.arange(4))
W, K, RATES, UPDATES = pickled.weights, pickled.kernel_weights, pickled.rates, pickled.updates
ON_VECTORS, ON_IMAGES, ON_SEQUENCE, ON_TOKENS = (
    pickled.on_vectors, pickled.on_images, pickled.on_sequence, pickled.on_tokens
)  # fmt: skip


def task():
    model = models.MLP([5, 3], norm=layers.BatchNorm)
    return training.Task(model, losses.mean_squared_error, [metrics.squared_error])


def train_step():
    return training.make_train_step(models.MLP([3]), optimizers.adam(0.1), losses.huber)


# By room and public name: what tells two of a kind apart, and functions that make some.
MADE = {
    initializers: {
        "constant": (W, lambda: initializers.constant(np.float32(0.1))),
        "delta_orthogonal": (K, lambda: initializers.delta_orthogonal(0.5)),
        "dirac": (
            K,
            lambda: initializers.dirac(2),
            lambda: initializers.dirac(rest=initializers.torch_kernel()),
        ),
        "glorot_normal": (W, lambda: initializers.glorot_normal(np.float32(1.5))),
        "glorot_uniform": (W, lambda: initializers.glorot_uniform()),
        "he_normal": (W, lambda: initializers.he_normal(mode="fan_out")),
        "he_uniform": (W, lambda: initializers.he_uniform(0.1)),
        "identical_features": (W, lambda: initializers.identical_features()),
        "identity": (W, lambda: initializers.identity(2.0)),
        "kaiming_normal": (W, lambda: initializers.kaiming_normal()),
        "kaiming_uniform": (W, lambda: initializers.kaiming_uniform()),
        "lecun_normal": (W, lambda: initializers.lecun_normal()),
        "lecun_uniform": (W, lambda: initializers.lecun_uniform()),
        "normal": (W, lambda: initializers.normal(1.0, 0.5)),
        "ones": (W, lambda: initializers.ones()),
        "orthogonal": (W, lambda: initializers.orthogonal(1.5)),
        "sparse": (W, lambda: initializers.sparse(0.5)),
        "torch_bias": (W, lambda: initializers.torch_bias(9)),
        "torch_kernel": (W, lambda: initializers.torch_kernel()),
        "truncated_normal": (W, lambda: initializers.truncated_normal(upper=1.0)),
        "uniform": (W, lambda: initializers.uniform(-1.0, 2.0)),
        "variance_scaling": (K, lambda: initializers.variance_scaling(2.0, "fan_avg", "uniform")),
        "whitening": (
            W,
            lambda: initializers.whitening(np.diag(np.arange(8.0)), epsilon=0.1),
        ),
        "xavier_normal": (W, lambda: initializers.xavier_normal()),
        "xavier_uniform": (W, lambda: initializers.xavier_uniform()),
        "zero_hadamard": (W, lambda: initializers.zero_hadamard(orthonormal=True)),
        "zeros": (W, lambda: initializers.zeros()),
    },
    schedules: {
        "constant": (RATES, lambda: schedules.constant(0.1)),
        "cosine_decay": (RATES, lambda: schedules.cosine_decay(0.1, steps=9)),
        "cosine_restarts": (RATES, lambda: schedules.cosine_restarts(0.1, cycle_steps=4)),
        "exponential_decay": (RATES, lambda: schedules.exponential_decay(0.1, factor=0.9)),
        "inverse_time_decay": (RATES, lambda: schedules.inverse_time_decay(0.1, decay=0.5)),
        "joined": (
            RATES,
            lambda: schedules.joined(
                [schedules.warmup(0.1, steps=3), schedules.cosine_decay(0.1, steps=9)],
                boundaries=[3],
            ),
        ),
        "multistep_decay": (RATES, lambda: schedules.multistep_decay(0.1, boundaries=[2, 5])),
        "one_cycle": (RATES, lambda: schedules.one_cycle(0.1, steps=15, anneal="linear")),
        "polynomial_decay": (RATES, lambda: schedules.polynomial_decay(0.1, steps=9, power=2.0)),
        "step_decay": (RATES, lambda: schedules.step_decay(0.1, every=4)),
        "warmup": (RATES, lambda: schedules.warmup(0.1, steps=9)),
    },
    optimizers: {
        "accumulate": (UPDATES, lambda: optimizers.accumulate(optimizers.sgd(0.1), 2)),
        "adadelta": (UPDATES, lambda: optimizers.adadelta()),
        "adafactor": (UPDATES, lambda: optimizers.adafactor(0.1, factored_from=2)),
        "adagrad": (UPDATES, lambda: optimizers.adagrad(0.1)),
        "adam": (
            UPDATES,
            lambda: optimizers.adam(schedules.cosine_decay(0.1, steps=9)),
            lambda: optimizers.adam(np.float32(0.1), amsgrad=True, moment_dtype=jnp.float32),
        ),
        "adamax": (UPDATES, lambda: optimizers.adamax(0.1)),
        "adamw": (
            UPDATES,
            lambda: optimizers.adamw(0.1, mask={"dense": {"kernel": False, "bias": True}}),
        ),
        "by_layer": (
            UPDATES,
            lambda: optimizers.by_layer({"dense/bias": None, "*": optimizers.adam(0.1)}),
        ),
        "freeze": (UPDATES, lambda: optimizers.freeze(optimizers.sgd(0.1), "dense/kernel")),
        "chain": (
            UPDATES,
            lambda: optimizers.chain(
                optimizers.clip_by_value(0.5), optimizers.sgd(0.1), optimizers.ema()
            ),
        ),
        "clip_by_global_norm": (UPDATES, lambda: optimizers.clip_by_global_norm(0.5)),
        "clip_by_value": (UPDATES, lambda: optimizers.clip_by_value(0.5)),
        "decoupled_decay": (
            UPDATES,
            lambda: optimizers.decoupled_decay(optimizers.momentum(0.1), 0.5),
        ),
        "ema": (UPDATES, lambda: optimizers.ema(0.9, debias=True)),
        "l2": (UPDATES, lambda: optimizers.l2(0.1, mask=None)),
        "lamb": (UPDATES, lambda: optimizers.lamb(0.1, epsilon=0.1)),
        "lion": (UPDATES, lambda: optimizers.lion(0.1, weight_decay=0.1)),
        "momentum": (UPDATES, lambda: optimizers.momentum(0.1, rate_position="outside")),
        "lookahead": (
            UPDATES,
            lambda: optimizers.lookahead(optimizers.sgd(0.1), period=2),
            lambda: optimizers.lookahead(
                optimizers.sgd(0.1), period=2, step_size=schedules.cosine_decay(0.5, steps=9)
            ),
        ),
        "muon": (
            UPDATES,
            lambda: optimizers.muon(0.1, adam_rate=0.2),
            lambda: optimizers.muon(0.1, matrices={"dense/kernel": None}),
        ),
        "nadam": (UPDATES, lambda: optimizers.nadam(0.1)),
        "nesterov": (UPDATES, lambda: optimizers.nesterov(0.1)),
        "plateau": (
            UPDATES,
            lambda: optimizers.plateau(0.1, patience=3),
            lambda: optimizers.adam(optimizers.plateau(0.1)),
        ),
        "radam": (UPDATES, lambda: optimizers.radam(0.1)),
        "recorded": (
            UPDATES,
            lambda: optimizers.recorded(optimizers.sgd(0.1), pickled.norms, steps=3),
        ),
        "rmsprop": (UPDATES, lambda: optimizers.rmsprop(0.1, centered=True)),
        "sam": (pickled.sharp_updates, lambda: optimizers.sam(optimizers.sgd(0.1))),
        "schedule_free": (
            UPDATES,
            lambda: optimizers.schedule_free(optimizers.sgd(0.1), beta=0.5),
        ),
        "sgd": (UPDATES, lambda: optimizers.sgd(0.1)),
        "swa": (UPDATES, lambda: optimizers.swa(start=1)),
    },
    layers: {
        "BatchNorm": (ON_VECTORS, lambda: layers.BatchNorm(momentum=0.5)),
        "Maxout": (
            pickled.outputs_of_layer,
            lambda: layers.Maxout(2, bias_init=initializers.torch_bias),
        ),
        "MultiHeadAttention": (
            ON_SEQUENCE,
            lambda: layers.MultiHeadAttention(2, normalize_qk=nn.RMSNorm),
        ),
        "NoisyBatchNorm": (ON_VECTORS, lambda: layers.NoisyBatchNorm(mean_range=0.25)),
        "PReLU": (pickled.outputs_of_layer, lambda: layers.PReLU(per_feature=True)),
        "RReLU": (ON_VECTORS, lambda: layers.RReLU(0.25, 0.5)),
    },
    models: {
        "ConvNet": (
            ON_IMAGES,
            lambda: models.ConvNet([2], [3], kernel_init=initializers.he_normal()),
        ),
        "MLP": (
            ON_VECTORS,
            lambda: models.MLP([5, 3]),
            lambda: models.MLP([5, 3], norm=functools.partial(layers.BatchNorm, momentum=0.5)),
            lambda: models.MLP(
                [5, 3], activation=layers.PReLU(), bias_init=initializers.torch_bias
            ),
        ),
        "ResNet": (
            ON_IMAGES,
            lambda: models.ResNet(8, norm=layers.BatchNorm, residual_start="zero_scale"),
        ),
        "ResidualMLP": (
            ON_VECTORS,
            lambda: models.ResidualMLP(features=5, residual_start="fixup", blocks="scan"),
            lambda: models.ResidualMLP(features=5, residual_start="scaled", branch_layers=3),
        ),
        "Transformer": (
            ON_TOKENS,
            lambda: models.Transformer(
                5, features=4, layers=2, heads=2, blocks="scan", tied_head=True
            ),
        ),
        "VGG": (ON_IMAGES, lambda: models.VGG(11, channels=[2] * 5, features=[3])),
    },
    observers: {
        "Change": (pickled.arrays, lambda: observers.Change(stop="enough")),
        "Observer": (pickled.memory, lambda: observers.Observer(pickled.noticed, name="noticed")),
        "Setup": (pickled.arrays, run_events.run),
        "early_stopping": (
            pickled.memory,
            lambda: observers.early_stopping(patience=2, mode="max"),
        ),
        "page": (pickled.memory, lambda: observers.page(Path("runs"), every=2)),
        "gradient_noise_every": (
            pickled.memory,
            lambda: observers.gradient_noise_every(2, pickled.quiet),
        ),
        "history_lines": (pickled.memory, lambda: observers.history_lines("runs/history.jsonl")),
        "attention_every": (
            pickled.memory,
            lambda: observers.attention_every(2, pickled.quiet),
        ),
        "propagation_every": (
            pickled.memory,
            lambda: observers.propagation_every(2, pickled.quiet),
        ),
        "report_plateau": (
            pickled.memory,
            lambda: observers.report_plateau("accuracy", split="train"),
        ),
        "sharpness_every": (pickled.memory, lambda: observers.sharpness_every(2, pickled.quiet)),
        "tensorboard": (pickled.memory, lambda: observers.tensorboard(Path("runs"), every=2)),
    },
    data: {
        "Arrays": (pickled.arrays, lambda: ARRAYS),
        "Available": (pickled.settings, lambda: data.available()[0]),
        "DataError": (pickled.number, lambda: data.DataError("a damaged file")),
        "Dataset": (
            pickled.split_arrays,
            lambda: data.Dataset("four", ARRAYS, None, None, ("a", "b")),
        ),
        "Scaler": (pickled.scaled, lambda: data.Scaler(np.arange(3.0), np.arange(1.0, 4.0))),
        "Streamed": (pickled.examples, lambda: data.Streamed(ARRAYS, prefetch=3)),
        "normalize_images": (
            pickled.images,
            lambda: data.normalize_images([0.1, 0.2, 0.3], np.array([0.5, 1.0, 2.0])),
        ),
    },
    augmentation: {
        "compose": (
            pickled.augmented,
            lambda: augmentation.compose(
                functools.partial(augmentation.random_crop, padding=2), augmentation.random_flip
            ),
        ),
    },
    training: {
        "History": (pickled.arrays, lambda: training.History({}, {}, {}, np.arange(3.0))),
        "Integers": (pickled.settings, lambda: training.Integers(8, 128, log=True)),
        "LogUniform": (pickled.settings, lambda: training.LogUniform(1e-4, 1)),
        "NonFiniteError": (pickled.number, lambda: training.NonFiniteError(3, "the loss", "stop")),
        "Parametrization": (
            pickled.factors_by_width,
            lambda: training.parametrization(
                "maximal_update", models.MLP([32, 3]), models.MLP([8, 3]), jnp.ones((1, 4))
            ),
        ),
        "Run": (
            pickled.whole_run,
            lambda: training.make_run(task(), optimizers.adam(0.1), batch_size=2),
        ),
        "Task": (pickled.task_outputs, task),
        "TrainState": (pickled.arrays, lambda: pickled.state_of(task(), optimizers.adam(0.1))),
        "Uniform": (pickled.settings, lambda: training.Uniform(0.0, 0.9)),
        "make_eval_step": (
            pickled.evaluated,
            lambda: training.make_eval_step(models.MLP([3]), losses.huber, [metrics.squared_error]),
        ),
        "make_run": (
            pickled.whole_run,
            lambda: training.make_run(task(), optimizers.sgd(0.1), batch_size=2, drop_last=True),
        ),
        "make_train_epoch": (pickled.epoch_of, lambda: training.make_train_epoch(train_step())),
        "make_train_step": (pickled.stepped, train_step),
    },
    calling: {
        "adapt": (
            pickled.adapted_outputs,
            lambda: calling.adapt(pickled.linear, init=pickled.linear_start),
            lambda: calling.adapt(eqx.nn.Linear(3, 3, key=pickled.KEY)),
            lambda: calling.adapt(nnx.Linear(3, 3, rngs=nnx.Rngs(0))),
        ),
    },
}

# What gives no function and no object of its own: arrays, numbers, tables, names for types.
ELSE = {
    initializers: {
        "Fans", "Initializer", "apply", "backward_gain", "bind_fan_in", "compute_fans", "gain",
        "lsuv", "patch_second_moment", "variance_preserving_gain", "transfer", "TransferReport",
        "Transferred",
    },
    schedules: {"Schedule"},
    optimizers: {
        "LayersState", "LearningRate", "RecordedState", "averaged_parameters",
        "current_learning_rate", "hidden_matrices",
        "evaluated_parameters", "is_kernel", "nesterov_theta", "report_metric", "schedules",
    },
    layers: {"max_pool"},
    models: {"stack_blocks", "unstack_blocks"},
    observers: {
        "Event",  # it belongs to the moment of a run
        "Stability", "clipped_share", "read_lines",
    },
    data: {
        "IGNORED", "as_dataset", "augmentation", "available", "brackets", "copying", "from_csv",
        "from_folder", "from_frame", "decode_tfds", "image_statistics", "load", "load_or_small",
        "mislabel", "modular_arithmetic", "nielsen", "prepare", "sample_function", "shrink_images",
        "split", "standardize", "stream",
    },
    augmentation: {"Augmentation", "cutout", "random_crop", "random_flip"},
    training: {
        "ByWidth", "Change", "Event", "Observer", "Result", "Setup", "Streamed",
        "alternating_flip_orders", "checkpoints", "compiler_options", "epoch_order", "fit", "fold",
        "init_state", "initialize", "keep_memory", "load", "orders", "parametrization",
        "recalibrate", "scale_images", "search", "step_orders", "sweep",
        "first_weights",  # a compiled program
    },
}  # fmt: skip

FACTORIES = (initializers, schedules, optimizers, augmentation)
"""Rooms in which a factory makes all that is made."""


def names_of(room):
    """The public names of a room; without a list of them, those that it defines."""
    own = [name for name, value in vars(room).items() if is_own(room, name, value)]
    return set(getattr(room, "__all__", own))


def is_own(room, name, value):
    return inspect.isroutine(value) and value.__module__ == room.__name__ and name[0] != "_"


def makers(*rooms):
    return {
        f"{room.__name__}.{name}-{index}": make
        for room in rooms
        for name, (_, *made) in MADE[room].items()
        for index, make in enumerate(made)
    }


def again(thing):
    return pickle.loads(pickle.dumps(thing))


def each_of(*rooms):
    return pytest.mark.parametrize(
        "make", [pytest.param(f, id=n) for n, f in makers(*rooms).items()]
    )


@pytest.mark.parametrize("room", ELSE, ids=lambda room: room.__name__)
def test_every_public_name_has_its_row(room):
    assert names_of(room) == MADE[room].keys() | ELSE[room]


@pytest.mark.parametrize(
    "room", [*ELSE, activations, losses, metrics], ids=lambda room: room.__name__
)
def test_public_functions_and_classes_pickle_by_their_names(room):
    values = [getattr(room, name) for name in sorted(names_of(room))]
    known = [value for value in values if inspect.isroutine(value) or inspect.isclass(value)]
    assert known
    assert [again(value) for value in known] == known


@pytest.mark.slow
def test_a_fresh_process_computes_the_same_to_the_bit(tmp_path):
    probes = {
        f"{room.__name__}.{name}-{index}": probe
        for room, found in MADE.items()
        for name, (probe, *made) in found.items()
        for index in range(len(made))
    }
    things = {name: (probes[name], make()) for name, make in makers(*MADE).items()}
    stored = {name: pickle.dumps(pair) for name, pair in things.items()}
    (tmp_path / "stored").write_bytes(pickle.dumps(stored))
    code = f"import pickled; pickled.answer({str(tmp_path)!r})"
    paths = os.pathsep.join([os.path.dirname(pickled.__file__), *sys.path])
    with subprocess.Popen([*STRICT_PYTHON, "-c", code], env=environment(PYTHONPATH=paths)) as other:
        here = {name: pickled.measured(*pair) for name, pair in things.items()}
    assert other.returncode == 0
    there = pickle.loads((tmp_path / "found").read_bytes())
    for name, (text, numbers) in here.items():
        assert there[name][1] == numbers, name
        if not has_address(text):  # of a function in a class that is written by its fields
            assert there[name][0] == text, name
    assert len({tuple(numbers) for _, numbers in here.values()}) > len(here) / 2


def has_address(text):
    return re.search("0x[0-9a-f]", text) is not None


@each_of(*FACTORIES)
def test_what_is_loaded_or_copied_is_equal_and_shows_its_settings(make):
    thing, loaded = make(), again(make())
    assert (loaded, hash(loaded)) == (thing, hash(thing))
    assert copy.deepcopy(thing) is copy.copy(thing) is thing
    assert repr(loaded) == repr(thing)
    assert re.fullmatch(r"[a-z_0-9]+\(.*\)", repr(thing))
    assert len(repr(thing)) < 200
    assert not has_address(repr(thing))


@each_of(models, layers)
def test_loaded_and_copied_models_are_equal_and_show_their_settings(make):
    model = make()
    assert not has_address(repr(model))
    for other in (again(model), copy.deepcopy(model), copy.copy(model)):
        assert repr(other) == repr(model)
        # Two partials are never equal, whatever they hold; nor are two modules with a child.
        partial = any(isinstance(value, functools.partial) for value in vars(model).values())
        assert other == model or partial


@each_of(observers)
def test_observers_are_short(make):
    assert isinstance(make(), observers.Observer | observers.Change | observers.Setup)
    if type(make()).__eq__ is Made.__eq__:
        assert again(make()) == make()
        assert len(repr(make())) < 200


def test_the_text_is_the_call_without_its_defaults():
    rate = schedules.cosine_decay(0.1, steps=9, end_rate=0.0)
    assert repr(optimizers.adam(rate, epsilon_position="outside")) == (
        "adam(learning_rate=cosine_decay(learning_rate=0.1, steps=9), epsilon_position='outside')"
    )
    assert repr(optimizers.recorded(optimizers.sgd(jnp.float32(1)), lambda g, u: g, steps=2)) == (
        "recorded(optimizer=sgd(learning_rate=float32[]), measure=<lambda>, steps=2)"
    )
    assert repr(optimizers.recorded(optimizers.sgd(1), pickled.Measure(), steps=2)) == (
        "recorded(optimizer=sgd(learning_rate=1), measure=<pickled.Measure object>, steps=2)"
    )
    assert repr(schedules.multistep_decay(0.1, boundaries=range(1, 90, 2))) == (
        "multistep_decay(learning_rate=0.1, boundaries=range(1, 90, 2))"
    )
    assert repr(schedules.multistep_decay(0.1, boundaries=list(range(1, 90)))) == (
        "multistep_decay(learning_rate=0.1, boundaries=[1, 2, 3, 4, 5, 6, ...])"
    )
    assert len(repr(observers.history_lines("a" * 999))) < 200
    assert "he_normal(mode='fan_out')" in repr(
        models.MLP([1], kernel_init=initializers.he_normal(mode="fan_out"))
    )


def test_settings_are_equal_only_to_the_bit():
    normal = initializers.normal
    assert normal(0.0, 1.0) == normal() == normal(mean=0.0)
    alike = [normal(0.0), normal(-0.0), normal(0), normal(np.float32(0)), normal(jnp.zeros(()))]
    assert len(set(alike)) == len(alike)
    assert initializers.zeros() != initializers.constant(0.0)
    assert initializers.zeros() != "zeros()"


def test_equal_settings_share_a_compiled_program():
    traced = []

    def step(optimizer, gradient):
        traced.append(optimizer)
        return optimizer.update(gradient, optimizer.init(0.0))[0]

    jitted = jax.jit(step, static_argnums=0)
    for rate in (0.5, 0.5, 0.25):
        assert jitted(optimizers.sgd(rate), 1.0).item() == -rate
    assert len(traced) == 2


def test_settings_that_change_later_change_nothing():
    boundaries, mask = [2], {"a": True, "b": False}
    schedule = schedules.multistep_decay(1.0, boundaries=boundaries, factor=0.5)
    decay = optimizers.l2(1.0, mask=mask)
    boundaries[0], mask["b"] = 1, True
    for each in (schedule, again(schedule)):
        assert each(1).item() == 1.0
    for each in (decay, again(decay)):
        params = {"a": 1.0, "b": 1.0}
        assert each.update({"a": 0.0, "b": 0.0}, each.init(params), params)[0]["b"] == 0.0


def test_arrays_of_jax_pickle_and_are_equal_to_themselves_alone():
    rate = jnp.float32(0.5)
    optimizer = optimizers.sgd(rate)
    assert optimizer == optimizer
    assert optimizer != optimizers.sgd(rate)
    assert again(optimizer).update(1.0, optimizer.init(0.0))[0].item() == -0.5


@pytest.mark.parametrize("name", [n for n, f in MADE[optimizers].items()])
def test_an_optimizer_is_still_the_named_tuple_of_optax(name):
    optimizer = MADE[optimizers][name][1]()
    init, update = optimizer
    assert (init, update) == (optimizer.init, optimizer.update)
    extra = isinstance(optimizer, optax.GradientTransformationExtraArgs)
    kind = optax.GradientTransformationExtraArgs if extra else optax.GradientTransformation
    for other in (optimizer._replace(init=init), jax.tree.map(lambda part: part, optimizer)):
        assert type(other) is kind
        assert tuple(other) == (init, update)
    assert (optax.with_extra_args_support(optimizer) is optimizer) == extra


def test_what_is_made_keeps_its_signature_and_its_text():
    init = initializers.he_normal()
    assert list(inspect.signature(init).parameters) == ["key", "shape", "dtype"]
    assert inspect.signature(initializers.he_normal).parameters["mode"].default == "fan_in"
    assert initializers.he_normal.__doc__.startswith("Normal weights that keep")
    assert initializers.bind_fan_in(init, 3) is init
    assert initializers.bind_fan_in(initializers.torch_bias, 3) == initializers.torch_bias(3)


def test_a_traced_setting_is_not_kept_and_does_not_pickle():
    def stepped(rate):
        optimizer = optimizers.adam(rate)
        assert repr(optimizer) == "adam(learning_rate=<traced>)"
        assert optimizer == optimizer
        assert optimizer != optimizers.adam(rate)
        with pytest.raises(pickle.PicklingError, match=r"known settings, got adam\(.*outside"):
            pickle.dumps(optimizers.chain(optimizer))
        return optimizer.update(1.0, optimizer.init(0.0))[0]

    with jax.checking_leaks():
        assert jax.jit(stepped)(0.5) == pytest.approx(-0.5)


def test_what_others_made_does_not_pickle():
    for made in (optax.adam(0.1), optimizers.chain(optax.adam(0.1))):
        with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
            pickle.dumps(made)


def test_chain_refuses_what_is_no_transformation():
    with pytest.raises(TypeError, match=r"chain must have gradient transformations, got function"):
        optimizers.chain(optimizers.sgd)
    with pytest.raises(ValueError, match=r"chain must have at least one"):
        optimizers.chain()


def test_a_factory_returns_a_function_or_an_object():
    @factory
    def power(exponent):
        return functools.partial(pow, exp=exponent) if exponent else exponent

    assert repr(power(2)) == "power(exponent=2)"
    assert power(2)(3) == 9
    with pytest.raises(TypeError, match=r"must return a function.*got int from power\(exponent=0"):
        power(0)


def test_models_that_start_nowhere_stay_equal():
    model = calling.adapt(pickled.linear, init=pickled.linear_start)
    assert again(model.without_start()) == model.without_start() == again(model).without_start()


@each_of(calling)
def test_copies_of_models_of_other_libraries_compute_the_same(make):
    model = make()
    _, expected = pickled.measured(pickled.adapted_outputs, model)
    for other in (again(model), copy.deepcopy(model), copy.copy(model)):
        assert pickled.measured(pickled.adapted_outputs, other) == (repr(model), expected)
        assert len(repr(other)) < 200


def test_the_labels_of_a_sweep_show_settings():
    values = [initializers.he_normal(), initializers.he_normal(mode="fan_out")]
    assert list(make_axis("init", values, static=False).labels) == list(map(repr, values))
    assert list(make_axis("optimizer", [optimizers.sgd(0.5)], static=False).labels) == [
        "sgd(learning_rate=0.5)"
    ]
    with pytest.raises(ValueError, match="must differ"):
        make_axis("init", [values[0], initializers.he_normal()], static=False)


def test_a_run_makes_its_plans_anew():
    run = MADE[training]["Run"][1]()
    pickled.whole_run(run)
    assert run._plans
    assert again(run) == run
    assert not again(run)._plans
    assert not copy.copy(run)._plans


def test_an_error_keeps_what_it_says():
    error = training.NonFiniteError(3, "the loss")
    error.result = "the run"
    error.add_note("in the second process")
    loaded = again(error)
    assert str(loaded) == str(error)
    assert (loaded.step, loaded.quantity, loaded.result) == (3, "the loss", "the run")
    assert loaded.__notes__ == error.__notes__


def test_a_spawned_process_trains_what_it_is_given():
    given = (
        models.MLP([6, 3], kernel_init=initializers.he_normal(mode="fan_out")),
        pickled.clipped(optimizers.plateau(0.5, patience=0)),
        [observers.report_plateau("loss"), observers.early_stopping("accuracy", patience=1)],
        run_events.dataset(),
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        there = pool.submit(pickled.train, *given)
        assert pickled.train(*given) == there.result()


def test_a_long_name_is_cut():
    """JAX names a program's file after the function, and a file's name has an end."""
    short = initializers.he_normal(mode="fan_out")
    assert short.__name__ == repr(short) == "he_normal(mode='fan_out')"
    step = training.make_train_step(models.MLP([3]), optimizers.adam(0.1), losses.hinge)
    assert step.__name__ == "make_train_step(...)"

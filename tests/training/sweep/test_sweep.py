"""A sweep's members are the solo runs, however they are cut, kept, resumed and spread."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import with_devices

from jaxdl import losses, models, optimizers, training
from jaxdl.training import sweep
from jaxdl.training.sweep import calls as sweep_calls
from jaxdl.training.sweep import folder as sweep_folder
from jaxdl.training.sweep import program as sweep_program
from jaxdl.training.sweep.by_seed import BySeed

xarray = pytest.importorskip("xarray")

HERE = Path(__file__).parent

EXAMPLES, FEATURES, BATCH = 24, 5, 8
DRAW = np.random.default_rng(0)
INPUTS = DRAW.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
TARGETS = np.sin(INPUTS.sum(1, keepdims=True))


def train(key, orders, *, learning_rate, width=4, targets=TARGETS):
    """Two epochs of a small network: the loss of each step."""
    model = models.MLP([width, 1])
    optimizer = optimizers.adam(learning_rate)
    arrays = {"inputs": jnp.asarray(INPUTS), "targets": jnp.asarray(targets)}
    epoch = training.make_train_epoch(
        training.make_train_step(model, optimizer, losses.mean_squared_error)
    )
    state = training.init_state(key, model, optimizer, arrays["inputs"])
    _, measured = epoch(state, arrays, orders.reshape(-1, BATCH))
    return {"loss": measured["loss"], "last": measured["loss"][-1]}


def two_epochs(key):
    return training.orders(key, 2, EXAMPLES)


def walk(key, *, learning_rate, width=3, start=1.0):
    """As `train` has it, but quick to compile: a few steps of a random matrix's iteration."""
    matrix = jax.random.normal(key, (width, width)) / width
    noise = start + jax.random.normal(jax.random.fold_in(key, 1), (width,))
    steps = jax.lax.scan(lambda x, _: (x - learning_rate * matrix @ x,) * 2, noise, None, 4)[1]
    return {"loss": jnp.sum(steps**2, axis=1)}


def draw(key, *, scale=1.0):
    return {"value": scale * jax.random.normal(key, (3,))}


OVER = {"learning_rate": [0.003, 0.03], "width": [3, 4]}

# Float32 sums of at most 24 terms, in another order, through 6 steps of Adam: each update is at
# most the rate whatever the gradient's rounding, but its direction follows the gradient's relative
# error, here some 1e-6, so that the loss moves by about 6 steps x 1e-6.
ROUNDING = 2e-5


@pytest.mark.parametrize("shared", [True, False])
def test_a_member_equals_its_solo_run(shared):
    rates, seeds = [0.003, 0.03], [7, 1, 4]
    result = sweep(
        train, {"learning_rate": rates}, seeds=seeds, by_seed={"orders": two_epochs},
        orders="shared" if shared else "own",
    )  # fmt: skip
    solo = jax.jit(lambda key, rate, orders: train(key, orders, learning_rate=rate))
    for rate in rates:
        for seed in seeds:
            whose = jax.random.key(seeds[0] if shared else seed)
            expected = solo(jax.random.key(seed), rate, two_epochs(whose))
            member = result.sel(learning_rate=rate, seed=seed)
            np.testing.assert_allclose(member.loss, expected["loss"], rtol=ROUNDING)
            np.testing.assert_allclose(member["last"], expected["loss"][-1], rtol=ROUNDING)


def test_a_product_with_a_vector_and_a_sum_are_right_in_every_member():
    # The pattern of JAX's issue 39103: wrong numbers from a vmapped product and reduction.
    def run(key, *, scale):
        matrix_key, vector_key = jax.random.split(key)
        matrix = scale * jax.random.normal(matrix_key, (17, 33))
        product = matrix @ jax.random.normal(vector_key, (33,))
        return {"sum": jnp.sum(product**2), "product": product, "largest": product.max()}

    result = sweep(run, {"scale": [0.5, 2.0]}, seeds=20, chunk=16)
    for scale in (0.5, 2.0):
        for seed in range(20):
            matrix_key, vector_key = jax.random.split(jax.random.key(seed))
            matrix = scale * np.asarray(jax.random.normal(matrix_key, (17, 33)), np.float64)
            product = matrix @ np.asarray(jax.random.normal(vector_key, (33,)), np.float64)
            member = result.sel(scale=scale, seed=seed)
            # 33 products of order 2 x 3, rounded to 6e-8 each.
            np.testing.assert_allclose(member["product"], product, atol=33 * 6 * 6e-8)
            np.testing.assert_allclose(member["sum"], np.sum(product**2), rtol=1e-4)
            np.testing.assert_allclose(member["largest"], product.max(), atol=33 * 6 * 6e-8)


@pytest.mark.parametrize(("seeds", "numbers"), [(3, [0, 1, 2]), ([5, 2**32 - 1], [5, 2**32 - 1])])
def test_runs_keys_are_those_of_the_seeds(seeds, numbers):
    result = sweep(lambda key: {"key": jax.random.key_data(key)}, seeds=seeds)
    expected = np.stack([jax.random.key_data(jax.random.key(number)) for number in numbers])
    np.testing.assert_array_equal(result["key"], expected)
    np.testing.assert_array_equal(result.seed, numbers)


def equations(jaxpr, name):
    found = [equation for equation in jaxpr.eqns if equation.primitive.name == name]
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            found += equations(inner, name) if hasattr(inner, "eqns") else []
    return found


@pytest.mark.parametrize("shared", [True, False])
def test_shared_batches_are_gathered_once_and_multiplied_at_once(shared):
    settings = {"learning_rate": np.dtype(np.float32)}
    made = BySeed("orders", two_epochs, shared, np.arange(6))
    program = sweep_program.trace_member(train, settings, by_seed=[made])
    members = 6
    jaxpr = jax.make_jaxpr(program.batched)(program.jaxpr.consts, *program.arguments(members)).jaxpr
    gathered = [e.outvars[0].aval.shape for e in equations(jaxpr, "gather")]
    batch = (BATCH, FEATURES) if shared else (members, BATCH, FEATURES)
    assert batch in gathered
    assert ((members, BATCH, FEATURES) in gathered) == (not shared)
    # The first product: the batch with the members' (features, width).
    products = equations(jaxpr, "dot_general")
    first = next(e for e in products if batch in [v.aval.shape for v in e.invars])
    batched_axes = first.params["dimension_numbers"][1]
    assert (batched_axes == ((), ())) == shared


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_how_members_are_cut_changes_nothing_but_rounding(chunk):
    over = {"learning_rate": [0.003, 0.03]}
    result = sweep(walk, over, seeds=5, chunk=chunk)
    whole = sweep(walk, over, seeds=5)
    xarray.testing.assert_allclose(result, whole, rtol=ROUNDING)


def test_a_member_that_diverges_leaves_the_others_as_they_are():
    def run(key, *, rate):
        weights = jax.random.normal(key, (4,))
        losses, _ = jax.lax.scan(lambda w, _: (w - rate * w**3, None), weights, None, 30)
        return {"weights": losses}

    healthy = sweep(run, {"rate": [0.01, 0.02]}, seeds=4, chunk=8)
    wild = sweep(run, {"rate": [0.01, 1e30]}, seeds=4, chunk=8)
    assert not np.isfinite(wild["weights"].sel(rate=1e30)).any()
    np.testing.assert_array_equal(
        wild["weights"].sel(rate=0.01), healthy["weights"].sel(rate=0.01), strict=True
    )


def test_axes_stand_in_their_order_and_are_named():
    def run(key, *, width, rate, activation, on):
        assert isinstance(width, int)  # a static number is what the user gave
        value = jnp.where(on, rate, -rate) * width
        return {"train": {"loss": activation(value * jnp.ones((2, 5)))}, "rate of all": rate}

    result = sweep(
        run,
        {
            "rate": [1.0, 2.0],
            "width": [3, 5, 7],
            "on": [False, True],
            "activation": {"same": lambda x: x, "square": jnp.square},
        },
        static=("width",),
        seeds=2,
        dims={"train/loss": ("layer", "epoch")},
    )
    loss = result["train/loss"]
    assert loss.dims == ("rate", "width", "on", "activation", "seed", "layer", "epoch")
    assert result["rate of all"].dims == ("rate", "width", "on", "activation", "seed")
    rate, width, sign = np.ix_([1.0, 2.0], [3, 5, 7], [-1, 1])
    expected = rate * width * sign
    np.testing.assert_array_equal(loss.sel(activation="same")[..., 0, 0, 0], expected)
    np.testing.assert_array_equal(loss.sel(activation="square")[..., 1, 1, 4], expected**2)


def test_one_metric_alone_and_default_names():
    assert sweep(lambda key: jnp.zeros(3), seeds=2)["result"].dims == ("seed", "result_dim_0")


def test_static_settings_alone_are_traced_anew():
    traced = []

    def run(key, *, width, rate):
        traced.append(width)
        return {"sum": rate * jax.random.normal(key, (width,)).sum()}

    sweep(run, {"rate": [1.0, 2.0, 3.0], "width": [2, 9]}, static=["width"], seeds=5, chunk=2)
    assert traced == [2, 9]


def cores(monkeypatch, count):
    """Let the machine have so many, on systems that tell of them either way."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)


def test_calls_run_side_by_side(monkeypatch):
    if jax.default_backend() != "cpu":
        pytest.skip("an accelerator is given one call at a time")
    cores(monkeypatch, 2)
    program = sweep_program.trace_member(draw, {})
    meeting = threading.Barrier(2)

    def finished(members, metrics):
        meeting.wait(timeout=60)  # raises unless two calls are in flight

    seeds = np.arange(8, dtype=np.uint32)
    execute = sweep_calls.prepare(program, 8, 2)
    execute((seeds,), np.arange(8), finished)


@pytest.mark.parametrize(("members", "count"), [(1, 2), (3, 2), (256, 2), (100, 4), (65, 1)])
def test_the_cores_get_calls_of_equal_size(monkeypatch, members, count):
    cores(monkeypatch, count)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices("cpu")[:1])
    program = sweep_program.trace_member(draw, {})
    plan = sweep_calls.plan_calls(program, members, None)
    calls = -(-members // plan.members)
    assert plan.threads == min(count, calls)
    assert calls % count == 0 or calls == members
    assert plan.members <= sweep_calls.CPU_MEMBERS
    # Padding is less than one member a call.
    assert calls * plan.members - members < calls


def test_what_a_member_holds_bounds_a_call_and_the_data_do_not():
    data = jnp.zeros((1000, 1000))
    floats = 250_000

    def run(key, *, scale):
        carry = scale * jax.random.normal(key, (floats,))
        final, _ = jax.lax.scan(lambda w, row: (w + row.sum(), None), carry, data)
        return {"sum": final.sum()}

    program = sweep_program.trace_member(run, {"scale": np.dtype("float32")})
    # The loop reads its state and writes it; nothing else is as large.
    assert program.bytes_per_member() == pytest.approx(2 * 4 * floats, rel=0.01)


def test_a_failing_call_is_reported_and_ends_the_sweep(tmp_path, monkeypatch):
    program = sweep_program.trace_member(draw, {})

    def finished(members, metrics):
        raise OSError("disk full")

    seeds = np.arange(64, dtype=np.uint32)
    execute = sweep_calls.prepare(program, 64, 1)
    with pytest.raises(OSError, match="disk full"):
        execute((seeds,), np.arange(64), finished)


@pytest.fixture(scope="module")
def kept_sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, sweep(walk, OVER, static=["width"], seeds=4, chunk=3, folder=folder)


@pytest.fixture
def finished_sweep(kept_sweep, tmp_path):
    folder, result = kept_sweep
    return shutil.copytree(folder, tmp_path / "sweep"), result


def computed(monkeypatch):
    """Records the members that are computed, by program."""
    seen = []
    prepare = sweep_calls.prepare

    def record(program, members, chunk):
        execute = prepare(program, members, chunk)

        def recorded(arguments, todo, finished):
            seen.append(todo.tolist())
            execute(arguments, todo, finished)

        return recorded

    # The package has a function of the name of the module.
    monkeypatch.setattr(sys.modules["jaxdl.training.sweep.sweep"], "prepare", record)
    return seen


def kept(folder, members):
    (file,) = folder.glob(f"{members}-*.npz")
    return file


def test_a_restart_computes_what_is_missing(finished_sweep, monkeypatch):
    folder, result = finished_sweep
    seen = computed(monkeypatch)
    again = sweep(walk, OVER, static=["width"], seeds=4, chunk=3, folder=folder)
    assert seen == []
    xarray.testing.assert_identical(again, result)
    kept(folder, "group1-members3-5").unlink()
    # Nor does it matter how the rest is cut.
    again = sweep(walk, OVER, static=["width"], seeds=4, folder=folder)
    assert seen == [[3, 4, 5]]
    xarray.testing.assert_allclose(again, result, rtol=ROUNDING)


def test_a_sweep_cut_short_goes_on(tmp_path, monkeypatch, finished_sweep):
    _, result = finished_sweep
    saves = []
    save = sweep_folder.SweepFolder.save

    def fail_at_third(self, *arguments):
        saves.append(arguments)
        if len(saves) == 3:
            raise KeyboardInterrupt
        save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_folder.SweepFolder, "save", fail_at_third)
        cores(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            sweep(walk, OVER, static=["width"], seeds=4, chunk=3, folder=tmp_path / "cut")
    seen = computed(monkeypatch)
    again = sweep(walk, OVER, static=["width"], seeds=4, chunk=3, folder=tmp_path / "cut")
    assert [len(members) for members in seen] == [2, 8]
    xarray.testing.assert_allclose(again, result, rtol=ROUNDING)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_file_is_named_and_computed_again(finished_sweep, monkeypatch, damage):
    folder, result = finished_sweep
    file = kept(folder, "group0-members0-2")
    content = bytearray(file.read_bytes())
    where = content.index(np.float32(result.loss.values[0, 0, 0, 0]).tobytes())
    content[where] ^= 1
    file.write_bytes(
        {"truncated": content[:100], "flipped": bytes(content), "emptied": b""}[damage]
    )
    seen = computed(monkeypatch)
    with pytest.warns(UserWarning, match="group0-members0-2"):
        again = sweep(walk, OVER, static=["width"], seeds=4, chunk=3, folder=folder)
    assert seen == [[0, 1, 2]]
    xarray.testing.assert_allclose(again, result, rtol=ROUNDING)
    assert (folder / f"damaged-{file.name}").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep(walk, OVER, static=["width"], seeds=4, chunk=3, folder=folder)


def test_a_file_that_cannot_be_read_now_is_no_damage(finished_sweep, monkeypatch):
    folder, _ = finished_sweep

    def refuse(path):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    names = sorted(path.name for path in folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            sweep(walk, OVER, static=["width"], seeds=4, chunk=3, folder=folder)
    assert sorted(path.name for path in folder.iterdir()) == names


def test_a_damaged_identity_is_named(finished_sweep):
    folder, _ = finished_sweep
    for content in (b"", b"\xff\xfe", b'{"over": '):
        (folder / "sweep.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"sweep\.json that is damaged .*; pass another"):
            sweep(walk, OVER, static=["width"], seeds=4, chunk=3, folder=folder)


def other_data(key, *, learning_rate, width):
    return walk(key, start=1.001, learning_rate=learning_rate, width=width)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seeds": 5}, "seeds is"),
        ({"over": {"learning_rate": [0.003, 0.04], "width": [3, 4]}}, "over learning_rate is"),
        ({"run": other_data}, "digest of run"),
    ],
)
def test_another_sweep_in_the_folder_is_refused(finished_sweep, changed, named):
    folder, _ = finished_sweep
    given = {"run": walk, "over": OVER, "static": ["width"], "seeds": 4, "folder": folder}
    with pytest.raises(ValueError, match=named):
        sweep(**given | changed)


def test_results_without_their_identity_are_refused(finished_sweep):
    folder, _ = finished_sweep
    (folder / "sweep.json").unlink()
    with pytest.raises(ValueError, match=r"no sweep\.json"):
        sweep(walk, OVER, static=["width"], seeds=4, folder=folder)


def test_metrics_that_numpy_has_no_name_for_are_kept(tmp_path):
    def run(key):
        return {"half": jax.random.normal(key, (2,), jnp.bfloat16)}

    first = sweep(run, seeds=3, folder=tmp_path)
    again = sweep(run, seeds=3, folder=tmp_path)
    np.testing.assert_array_equal(again.half, first.half, strict=True)
    assert first.half.dtype == jnp.bfloat16


def test_three_devices_in_another_process_go_on_with_the_same_sweep(finished_sweep, monkeypatch):
    # Three devices do not divide eight members. That the folder is accepted says that the digest
    # of a run is the same in every process.
    folder, result = finished_sweep
    kept(folder, "group0-members0-2").unlink()
    kept(folder, "group1-members3-5").unlink()
    code = (
        f"import sys; sys.path[:0] = {[str(HERE), str(HERE.parents[1])]}\n"
        "import jax, test_sweep as t\n"
        "assert jax.local_device_count() == 3\n"
        f"t.sweep(t.walk, t.OVER, static=['width'], seeds=4, folder={str(folder)!r})\n"
        f"whole = t.sweep(t.walk, t.OVER, static=['width'], seeds=4)\n"
        f"whole.loss.values.tofile({str(folder / 'loss')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=with_devices(3))
    seen = computed(monkeypatch)
    again = sweep(walk, OVER, static=["width"], seeds=4, folder=folder)
    assert seen == []
    xarray.testing.assert_allclose(again, result, rtol=ROUNDING)
    here = sweep(walk, OVER, static=["width"], seeds=4)
    there = np.fromfile(folder / "loss", np.float32).reshape(here.loss.shape)
    np.testing.assert_allclose(there, here.loss, rtol=ROUNDING)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"over": {"scale": []}}, ValueError, "must hold a value, got none"),
        ({"over": {"scale": 0.1}}, TypeError, "must be a list"),
        ({"over": {"scale": "fast"}}, TypeError, "must be a list"),
        ({"over": {"scale": [0.1, 0.1]}}, ValueError, "must differ"),
        ({"over": {"scale": [0.1, 0.1 + 1e-12]}}, ValueError, "must differ"),
        ({"over": {"scale": [1.0, np.nan]}}, ValueError, "finite values of float32"),
        ({"over": {"scale": [1.0, 1e39]}}, ValueError, "finite values of float32"),
        ({"over": {"scale": [1, 2**40]}}, ValueError, "finite values of int32"),
        ({"over": {"rate": [0.1]}}, ValueError, r"arguments of run, \['scale'\], got \['rate'\]"),
        ({"over": {"seed": [1]}}, ValueError, "which sweep gives"),
        ({"seeds": 0}, ValueError, "at least 1, got 0"),
        ({"seeds": []}, ValueError, "must hold a seed"),
        ({"seeds": [1, 1]}, ValueError, "must differ"),
        ({"seeds": [-1]}, ValueError, "integer from 0"),
        ({"seeds": [2**32]}, ValueError, "integer from 0"),
        ({"seeds": 1.5}, TypeError, r"seeds must be a whole number, got 1\.5"),
        ({"seeds": True}, TypeError, "seeds must be a whole number, got True"),
        ({"seeds": "3"}, TypeError, "seeds must be a whole number, got '3'"),
        ({"seeds": [1, True]}, ValueError, "integer from 0 .* got True"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1"),
        ({"chunk": 1.5}, TypeError, r"chunk must be a whole number, got 1\.5"),
        ({"chunk": True}, TypeError, "chunk must be a whole number, got True"),
        ({"static": ["width"]}, ValueError, "static must name settings"),
        ({"static": "scale"}, TypeError, "tuple of names"),
        ({"dims": {"loss": ("epoch",)}}, ValueError, r"dims must name metrics, \['value'\]"),
        ({"dims": {"value": ("a", "b")}}, ValueError, "1 different names"),
        ({"dims": {"value": ("seed",)}}, ValueError, "'seed' must have one length"),
        ({"run": lambda key, width: {"a": key}}, ValueError, r"got none for \['width'\]"),
        ({"run": lambda key: {"a": "text"}}, TypeError, "arrays of numbers, got a = 'text'"),
        ({"run": lambda key: {"a": key}}, TypeError, "arrays of numbers, got a = "),
        ({"run": lambda key: {"a": None}}, TypeError, "arrays of numbers, got a = None"),
        ({"run": lambda key: None}, TypeError, "arrays of numbers"),
        ({"run": lambda key: {}}, TypeError, "arrays by name, got none"),
        ({"run": lambda key: {"seed": jnp.ones(2)}}, ValueError, "named like settings"),
        ({"run": lambda key: {"a": {"b": 1}, "a/b": 2}}, ValueError, "different names"),
    ],
)
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        sweep(**{"run": draw, "seeds": 2} | arguments)


def test_shapes_that_depend_on_a_static_setting_are_refused():
    def run(key, *, width):
        return {"weights": jax.random.normal(key, (width,))}

    with pytest.raises(ValueError, match=r"for every value of \['width'\]"):
        sweep(run, {"width": [2, 3]}, static=["width"], seeds=1)


def test_a_shape_from_a_traced_setting_says_what_to_do():
    def run(key, *, width):
        return {"sum": jax.random.normal(key, (width,)).sum()}

    with pytest.raises(TypeError) as caught:
        sweep(run, {"width": [2, 3]}, seeds=1)
    assert any("static=" in note for note in caught.value.__notes__)


def test_numpys_integers_are_counts_and_seeds():
    plain = sweep(draw, seeds=2, chunk=1)
    for seeds in (np.int64(2), np.array(2), np.arange(2), [np.uint8(0), 1], iter([0, 1])):
        assert sweep(draw, seeds=seeds, chunk=np.int32(1)).equals(plain)


@pytest.mark.parametrize("when", ["traced", "run"])
def test_a_static_member_that_raises_is_named(when):
    def run(key, *, width, activation):
        if width == 3 and activation is jnp.sin:
            if when == "traced":
                raise RuntimeError("too wide")
            jax.debug.callback(fail)
        return {"sum": jax.random.normal(key, (width,)).sum()}

    def fail():
        raise RuntimeError("too wide")

    over = {"width": [2, 3], "activation": {"tanh": jnp.tanh, "sine": jnp.sin}}
    with pytest.raises(Exception, match="too wide") as caught:
        sweep(run, over, static=["width"], seeds=1)
    assert "the members of the sweep with width=3, activation=sine raised this" in (
        caught.value.__notes__
    )

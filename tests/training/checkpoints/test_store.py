"""A checkpoint gives back the bits it was given, or says why it does not."""

import json
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from checkpointed import EXTRA, identity, line_of, parts_of, same_bits, save_steps
from processes import environment

from jaxdl import models
from jaxdl.training import checkpoints, init_state
from jaxdl.training.checkpoints.identity import identify


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 3))
    with checkpoints.open(tmp_path, identity()) as store:
        restored = store.restore(parts_of(0))
    assert restored is not None
    assert restored.step == 2
    same_bits(restored.parts, parts_of(2))
    assert restored.extra == EXTRA
    assert restored.lines == [line_of(1), line_of(2)]


def test_a_target_of_shapes_alone_is_enough(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 2))
    with checkpoints.open(tmp_path, identity()) as store:
        restored = store.restore(jax.eval_shape(lambda: parts_of(0)))
    assert restored is not None
    same_bits(restored.parts, parts_of(1))


def test_a_train_state_with_its_optimizer_goes_through(tmp_path: Path) -> None:
    model, optimizer = models.MLP([4, 2]), optax.adam(1e-3)
    state, other = (
        {"state": vars(init_state(jax.random.key(seed), model, optimizer, jnp.ones((1, 3))))}
        for seed in (0, 1)
    )
    with checkpoints.open(tmp_path, identify(state, config={})) as store:
        store.save(0, state)
        restored = store.restore(other)
    assert restored is not None
    same_bits(restored.parts, state)
    assert restored.extra is None


def test_the_buffers_may_be_given_away_at_once(tmp_path: Path) -> None:
    """fit donates the state to the next call while its copy is being written."""
    state = {"state": {"kernel": jnp.arange(200_000.0)}}
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: -x, s), donate_argnums=0)
    with checkpoints.open(tmp_path, identify(state, config={})) as store:
        store.save(1, state)
        state = jax.block_until_ready(overwrite(state))
        restored = store.restore(state)
    assert restored is not None
    np.testing.assert_array_equal(
        restored.parts["state"]["kernel"], np.arange(200_000, dtype=np.float32)
    )


def test_what_orbax_cannot_hold_comes_back_too(tmp_path: Path) -> None:
    names = ["uint2", "uint4", "int4", "float8_e8m0fnu", "float8_e4m3fn", "float16", "complex64"]
    state = {name: jnp.asarray([1, 0, 1], name) for name in names}
    parts = {"state": state | {"scalar": jnp.asarray(2.5), "empty": jnp.zeros((0, 3), jnp.int8)}}
    with checkpoints.open(tmp_path, identify(parts, config={})) as store:
        store.save(1, parts)
        restored = store.restore(jax.eval_shape(lambda: parts))
    assert restored is not None
    same_bits(restored.parts, parts)


def test_plain_orbax_restores_a_saved_step(tmp_path: Path) -> None:
    """In a process of its own that knows nothing of this library."""
    model, optimizer = models.MLP([4, 2]), optax.adam(1e-3)
    state = init_state(jax.random.key(3), model, optimizer, jnp.ones((1, 3)))
    parts = {"state": vars(state), "observers": ()}
    with checkpoints.open(tmp_path, identify(parts, config={})) as store:
        store.save(5, parts)
    expected = {
        "step": 0,
        "key": jax.random.key_data(state.key).tolist(),
        "kernel": np.asarray(state.params["dense_1"]["kernel"]).tolist(),
        "count": 0,
    }
    (folder,) = tmp_path.glob("*-step-5")
    script = """
import json, sys, warnings
warnings.simplefilter("error")
from pathlib import Path
import orbax.checkpoint
state = orbax.checkpoint.StandardCheckpointer().restore(Path(sys.argv[1]) / "state")
assert not [name for name in sys.modules if name.split(".")[0] == "jaxdl"]
print(json.dumps({
    "step": int(state["step"]),
    "key": state["key"].tolist(),
    "kernel": state["params"]["dense_1"]["kernel"].tolist(),
    "count": int(state["opt_state"][0]["count"]),
}))
"""
    told = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True, text=True, timeout=120, env=environment(),
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == expected
    # And into the structure of a state of its own.
    target = vars(init_state(jax.random.key(0), model, optimizer, jnp.ones((1, 3))))
    target = target | {"key": jax.random.key_data(state.key)}
    read = orbax.checkpoint.StandardCheckpointer().restore(folder / "state", target)
    same_bits(read["opt_state"], state.opt_state)
    same_bits(read["params"], state.params)


def test_a_save_writes_only_the_lines_that_are_new(tmp_path: Path) -> None:
    with checkpoints.open(tmp_path, identity()) as store:
        sizes = []
        for step in range(1, 6):
            store.save(step, parts_of(step), lines=[line_of(step)] * (1000 if step == 1 else 1))
            store.wait()
            newest = max(tmp_path.glob("*-step-*"))
            sizes.append(sum(each.stat().st_size for each in newest.rglob("*") if each.is_file()))
        log = tmp_path / "history.jsonl"
        assert log.stat().st_size > 1000 * 40
        # The first save has a thousand lines; the others are as large.
        assert max(sizes) - min(sizes) < log.stat().st_size / 10


def test_lines_of_a_save_that_never_came_to_be_are_gone(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 3))
    for name in ("history.jsonl", "history.copy.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b'{"steps": {"lo')
    with checkpoints.open(tmp_path, identity()) as store:
        restored = store.restore(parts_of(0))
        assert restored is not None
        assert restored.lines == [line_of(1), line_of(2)]
        store.save(3, parts_of(3), lines=[line_of(3)])
        again = store.restore(parts_of(0))
    assert again is not None
    assert again.lines == [line_of(1), line_of(2), line_of(3)]


def test_a_store_restores_before_it_saves_where_checkpoints_are(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 2))
    with (
        checkpoints.open(tmp_path, identity()) as store,
        pytest.raises(RuntimeError, match="must restore before it saves"),
    ):
        store.save(2, parts_of(2))


def test_the_newest_are_kept_in_the_order_they_were_saved(tmp_path: Path) -> None:
    """A return to the best state saves a lower step after a higher one."""
    with checkpoints.open(tmp_path, identity(), keep=2) as store:
        for step in (10, 20, 30, 20):
            store.save(step, parts_of(step))
        store.wait()
        assert store.steps() == [30, 20]
        restored = store.restore(parts_of(0))
    assert restored is not None
    assert restored[0] == 20


def test_an_empty_folder_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    with checkpoints.open(tmp_path / "new" / "folder", identity()) as store:
        assert store.restore(parts_of(0)) is None


# Another run


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"kernel": jnp.zeros((300, 41))}, r"kernel is float32\[300,40\] there and float32\[300,4"),
        ({"kernel": jnp.zeros((300, 40), jnp.bfloat16)}, r"kernel is float32.* and bfloat16"),
        ({"velocity": jnp.zeros(3)}, "velocity is here and not there"),
    ],
)
def test_another_model_optimizer_or_dtype_is_refused(
    tmp_path: Path, other: dict[str, Any], named: str
) -> None:
    save_steps(tmp_path, range(1, 2))
    parts = parts_of(0)
    parts["state"] |= other
    with pytest.raises(ValueError, match=named):
        checkpoints.open(tmp_path, identify(parts, config={"batch_size": 4}))
    with checkpoints.open(tmp_path, identity()) as store, pytest.raises(ValueError, match=named):
        store.restore(parts)


def test_another_optimizer_is_refused_by_the_leaves_it_lacks(tmp_path: Path) -> None:
    model, inputs = models.MLP([4, 2]), jnp.ones((1, 3))
    adam, sgd = (
        {"state": vars(init_state(jax.random.key(0), model, optimizer, inputs))}
        for optimizer in (optax.adam(1e-3), optax.sgd(1e-3, momentum=0.9))
    )
    with checkpoints.open(tmp_path, identify(adam, config={})) as store:
        store.save(0, adam)
    with pytest.raises(
        ValueError, match="state/opt_state/0/nu/dense_0/kernel is there and not here"
    ):
        checkpoints.open(tmp_path, identify(sgd, config={}))


def test_another_setting_is_refused(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 2))
    with pytest.raises(ValueError, match="batch_size is 4 there and 8 here"):
        checkpoints.open(tmp_path, identify(parts_of(0), config={"batch_size": 8}))


def test_another_environment_is_taken_and_told(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 2))
    other = identity()
    other["environment"] = other["environment"] | {"layout": "mesh of 8", "jax": "0.8.0"}
    with (
        checkpoints.open(tmp_path, other) as store,
        pytest.warns(UserWarning, match="equal to rounding, not bit for bit") as record,
    ):
        restored = store.restore(parts_of(0))
    assert restored is not None
    assert "layout is jit there and mesh of 8 here" in str(record[0].message)
    same_bits(restored.parts, parts_of(1))


# Settings


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        checkpoints.open(tmp_path, identity(), keep=0)
    store = checkpoints.open(tmp_path, identity())
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        store.save(-1, parts_of(0))
    with pytest.raises(TypeError, match=r"got float at 'state/a'; wrap it in jnp\.asarray"):
        store.save(1, {"state": {"a": 1.0}})
    with pytest.raises(ValueError, match="at least one number"):
        store.save(1, {"state": {"a": jnp.zeros((0,))}})
    with pytest.raises(TypeError, match="set is not JSON"):
        store.save(1, parts_of(1), extra={"seen": {1, 2}})
    store.close()
    store.close()
    with pytest.raises(RuntimeError, match="got a closed one; open the folder again"):
        store.save(1, parts_of(1))


def test_a_name_that_two_leaves_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 'a/b' twice"):
        identify({"a": {"b": jnp.zeros(1)}, "a/b": jnp.zeros(1)}, config={})


def test_doubles_are_not_made_singles(tmp_path: Path) -> None:
    doubles = {"state": {"kernel": np.arange(3.0)}}
    with checkpoints.open(tmp_path, identify(doubles, config={})) as store:
        store.save(1, doubles)
        restored = store.restore(doubles)
        assert restored is not None
        assert restored.parts["state"]["kernel"].dtype == np.float64
        with pytest.raises(ValueError, match="got jax_enable_x64 off, which makes them float32"):
            store.restore({"state": {"kernel": jax.ShapeDtypeStruct((3,), np.float64)}})


def test_one_save_at_a_time(tmp_path: Path) -> None:
    with checkpoints.open(tmp_path, identity()) as store:
        for step in range(5):
            store.save(step, parts_of(step))
            saving = [t for t in threading.enumerate() if t.name.startswith("checkpoint of step")]
            assert len(saving) <= 1
    assert not [t for t in threading.enumerate() if t.name.startswith("checkpoint of step")]


def test_no_warning_of_a_library_reaches_the_user(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_steps(tmp_path, range(1, 2))
        with checkpoints.open(tmp_path, identity()) as store:
            assert store.restore(parts_of(0)) is not None
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_two_processes_share_what_process_0_writes_and_reads(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("saving_processes.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), "share", str(tmp_path), str(index), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for index in range(2)
    ]
    try:
        told = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, told, strict=True):
        assert process.returncode == 0, errors
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in told)
    assert first[0].startswith("ValueError: a run must go on with the model")
    assert second[0].startswith("RuntimeError: process 0 must succeed, got ValueError: a run must")
    for refused in (first, second):
        assert "bias is here and not there" in refused[0]
        assert "kernel is float32[50,40] there and float32[2] here" in refused[1]
        assert "sharded over processes" in refused[2]
    assert len(list(tmp_path.glob("*-step-*"))) == 1

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
import pytest
from checkpointed import HISTORY, identity, same_bits, save_steps, tree_of
from processes import environment

from jaxdl import models
from jaxdl.training import checkpoints, init_state
from jaxdl.training.checkpoints.identity import identify


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 3))
    with checkpoints.open(tmp_path, identity()) as store:
        restored = store.restore(tree_of(0))
    assert restored is not None
    step, tree, extra = restored
    assert step == 2
    same_bits(tree, tree_of(2))
    np.testing.assert_array_equal(extra["losses"], HISTORY["losses"])
    assert {k: v for k, v in extra.items() if k != "losses"} == {
        k: v for k, v in HISTORY.items() if k != "losses"
    }


def test_a_target_of_shapes_alone_is_enough(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 2))
    with checkpoints.open(tmp_path, identity()) as store:
        restored = store.restore(jax.eval_shape(lambda: tree_of(0)))
    assert restored is not None
    same_bits(restored[1], tree_of(1))


def test_a_train_state_with_its_optimizer_goes_through(tmp_path: Path) -> None:
    model, optimizer = models.MLP([4, 2]), optax.adam(1e-3)
    state = init_state(jax.random.key(0), model, optimizer, jnp.ones((1, 3)))
    with checkpoints.open(tmp_path, identify(state, config={})) as store:
        store.save(0, state)
        restored = store.restore(init_state(jax.random.key(1), model, optimizer, jnp.ones((1, 3))))
    assert restored is not None
    same_bits(restored[1], state)
    assert restored[2] is None


def test_the_buffers_may_be_given_away_at_once(tmp_path: Path) -> None:
    """fit donates the state to the next call while its copy is being written."""
    state = {"kernel": jnp.arange(200_000.0)}
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: -x, s), donate_argnums=0)
    with checkpoints.open(tmp_path, identify(state, config={})) as store:
        store.save(1, state)
        state = jax.block_until_ready(overwrite(state))
        restored = store.restore(state)
    assert restored is not None
    np.testing.assert_array_equal(restored[1]["kernel"], np.arange(200_000, dtype=np.float32))


def test_many_parts_come_back_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxdl.training.checkpoints.packing._PART_BYTES", 1000)
    save_steps(tmp_path, range(1, 2))
    (folder,) = tmp_path.glob("*-step-1")
    assert len(list((folder / "payload").glob("part_*"))) > 2
    with checkpoints.open(tmp_path, identity()) as store:
        restored = store.restore(tree_of(0))
    assert restored is not None
    same_bits(restored[1], tree_of(1))


def test_the_newest_are_kept_in_the_order_they_were_saved(tmp_path: Path) -> None:
    """A return to the best state saves a lower step after a higher one."""
    with checkpoints.open(tmp_path, identity(), keep=2) as store:
        for step in (10, 20, 30, 20):
            store.save(step, tree_of(step))
        store.wait()
        assert store.steps() == [30, 20]
        restored = store.restore(tree_of(0))
    assert restored is not None
    assert restored[0] == 20


def test_an_empty_folder_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    with checkpoints.open(tmp_path / "new" / "folder", identity()) as store:
        assert store.restore(tree_of(0)) is None


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
    tree = tree_of(0) | other
    with pytest.raises(ValueError, match=named):
        checkpoints.open(tmp_path, identify(tree, config={"batch_size": 4}))
    with checkpoints.open(tmp_path, identity()) as store, pytest.raises(ValueError, match=named):
        store.restore(tree)


def test_another_optimizer_is_refused_by_the_leaves_it_lacks(tmp_path: Path) -> None:
    model, inputs = models.MLP([4, 2]), jnp.ones((1, 3))
    adam, sgd = (
        init_state(jax.random.key(0), model, optimizer, inputs)
        for optimizer in (optax.adam(1e-3), optax.sgd(1e-3, momentum=0.9))
    )
    with checkpoints.open(tmp_path, identify(adam, config={})) as store:
        store.save(0, adam)
    with pytest.raises(ValueError, match="opt_state/0/nu/dense_0/kernel is there and not here"):
        checkpoints.open(tmp_path, identify(sgd, config={}))


def test_another_setting_is_refused(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 2))
    with pytest.raises(ValueError, match="batch_size is 4 there and 8 here"):
        checkpoints.open(tmp_path, identify(tree_of(0), config={"batch_size": 8}))


def test_another_environment_is_taken_and_told(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 2))
    other = identity()
    other["environment"] = other["environment"] | {"layout": "mesh of 8", "jax": "0.8.0"}
    with (
        checkpoints.open(tmp_path, other) as store,
        pytest.warns(UserWarning, match="equal to rounding, not bit for bit") as record,
    ):
        restored = store.restore(tree_of(0))
    assert restored is not None
    assert "layout is jit there and mesh of 8 here" in str(record[0].message)
    same_bits(restored[1], tree_of(1))


# Settings


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        checkpoints.open(tmp_path, identity(), keep=0)
    store = checkpoints.open(tmp_path, identity())
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        store.save(-1, tree_of(0))
    with pytest.raises(TypeError, match=r"got float at 'a'; wrap it in jnp\.asarray"):
        store.save(1, {"a": 1.0})
    with pytest.raises(ValueError, match="at least one number"):
        store.save(1, {"a": jnp.zeros((0,))})
    with pytest.raises(TypeError, match=r"got set at extra\['seen'\]; convert it"):
        store.save(1, tree_of(1), {"seen": {1, 2}})
    with pytest.raises(TypeError, match="must be numeric, got dtype object"):
        store.save(1, tree_of(1), np.array([None]))
    with pytest.raises(TypeError, match="must be strings"):
        store.save(1, tree_of(1), {1: 2})
    store.close()
    store.close()
    with pytest.raises(RuntimeError, match="got a closed one; open the folder again"):
        store.save(1, tree_of(1))


def test_a_name_that_two_leaves_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 'a/b' twice"):
        identify({"a": {"b": jnp.zeros(1)}, "a/b": jnp.zeros(1)}, config={})


def test_doubles_are_not_made_singles(tmp_path: Path) -> None:
    doubles = {"kernel": np.arange(3.0)}
    with checkpoints.open(tmp_path, identify(doubles, config={})) as store:
        store.save(1, doubles)
        restored = store.restore(doubles)
        assert restored is not None
        assert restored[1]["kernel"].dtype == np.float64
        with pytest.raises(ValueError, match="got jax_enable_x64 off, which makes them float32"):
            store.restore({"kernel": jax.ShapeDtypeStruct((3,), np.float64)})


def test_one_save_at_a_time(tmp_path: Path) -> None:
    with checkpoints.open(tmp_path, identity()) as store:
        for step in range(5):
            store.save(step, tree_of(step))
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
            assert store.restore(tree_of(0)) is not None
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

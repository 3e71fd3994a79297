"""Damaged files, full disks, killed processes: no step is lost, and what happened is told."""

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from checkpointed import identity, line_of, parts_of, same_bits, save_steps
from processes import environment

from jaxdl.training import checkpoints
from jaxdl.training.checkpoints import on_disk
from jaxdl.training.checkpoints.identity import identify
from jaxdl.training.checkpoints.packing import pack

SCRIPT = Path(__file__).with_name("saving_processes.py")


def payload(folder: Path) -> Path:
    """The file that holds the numbers."""
    return max((folder / "state").rglob("*"), key=lambda path: path.stat().st_size)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00{not json")


def metadata_file(folder: Path) -> Path:
    return folder / "state" / "_METADATA"


def manifest_file(folder: Path) -> Path:
    return folder / "manifest.json"


@pytest.mark.parametrize("which", [payload, metadata_file, manifest_file])
@pytest.mark.parametrize("damage", [flip_bit, truncate, zero, garbage, Path.unlink])
def test_a_damaged_file_falls_back_to_the_step_before_and_is_named(
    tmp_path: Path, which: Callable[[Path], Path], damage: Callable[[Path], None]
) -> None:
    save_steps(tmp_path, range(1, 3))
    (newest,) = tmp_path.glob("*-step-2")
    path = which(newest)
    damage(path)
    with checkpoints.open(tmp_path, identity()) as store:
        with pytest.warns(UserWarning, match="damaged checkpoint is passed over") as record:
            restored = store.restore(parts_of(0))
        assert str(path) in str(record[0].message)
        assert restored is not None
        assert restored[0] == 1
        same_bits(restored.parts, parts_of(1))
        # What is saved from here on counts as newer than the damaged step, which is still there.
        store.save(2, parts_of(2))
        store.wait()
        assert store.steps() == [1, 2]
    assert (tmp_path / f"damaged-{newest.name}").is_dir()


def test_every_flipped_bit_shows(tmp_path: Path) -> None:
    """Any single bit, in any file: 40 at random, of which each alone must be seen."""
    save_steps(tmp_path, range(1, 2))
    (folder,) = tmp_path.glob("*-step-1")
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    random = np.random.default_rng(0)
    for _ in range(40):
        path = files[random.integers(len(files))]
        before = path.read_bytes()
        changed = bytearray(before)
        changed[random.integers(len(changed))] ^= 1 << random.integers(8)
        path.write_bytes(changed)
        with (
            checkpoints.open(tmp_path, identity()) as store,
            pytest.raises(
                checkpoints.DamagedError, match="go on from a whole checkpoint"
            ) as raised,
        ):
            store.restore(parts_of(0))
        assert str(path) in str(raised.value)
        path.write_bytes(before)
    with checkpoints.open(tmp_path, identity()) as store:
        assert store.restore(parts_of(0)) is not None


def test_without_a_whole_checkpoint_nothing_is_renamed_and_no_run_starts_anew(
    tmp_path: Path,
) -> None:
    save_steps(tmp_path, range(1, 4))
    for folder in tmp_path.glob("*-step-*"):
        flip_bit(payload(folder))
    names = sorted(path.name for path in tmp_path.iterdir())
    for _ in range(2):
        with (
            checkpoints.open(tmp_path, identity()) as store,
            pytest.raises(checkpoints.DamagedError, match="pass another folder to start anew"),
        ):
            store.restore(parts_of(0))
        assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_damaged_checkpoints_alone_are_no_empty_folder(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 3))
    flip_bit(payload(next(tmp_path.glob("*-step-2"))))
    with checkpoints.open(tmp_path, identity()) as store, pytest.warns(UserWarning, match="passed"):
        store.restore(parts_of(0))
    shutil.rmtree(next(tmp_path.glob("0*-step-1")))
    with (
        checkpoints.open(tmp_path, identity()) as store,
        pytest.raises(checkpoints.DamagedError, match="damaged-00000001-step-2"),
    ):
        store.restore(parts_of(0))


@pytest.mark.parametrize("damage", [flip_bit, truncate, zero, garbage, Path.unlink])
@pytest.mark.parametrize("name", ["history.jsonl", "history.copy.jsonl"])
def test_one_copy_of_the_log_is_enough(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    save_steps(tmp_path, range(1, 3))
    before = (tmp_path / name).read_bytes()
    damage(tmp_path / name)
    with (
        checkpoints.open(tmp_path, identity()) as store,
        pytest.warns(UserWarning, match=f"{name} was damaged and is made again from its copy"),
    ):
        restored = store.restore(parts_of(0))
    assert restored is not None
    assert restored.step == 2
    assert restored.lines == [line_of(1), line_of(2)]
    assert (tmp_path / name).read_bytes() == before


def test_a_log_that_is_lost_in_its_end_falls_back_to_the_step_before(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 3))
    for name in ("history.jsonl", "history.copy.jsonl"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-5])
    with checkpoints.open(tmp_path, identity()) as store, pytest.warns(UserWarning, match="copy"):
        restored = store.restore(parts_of(0))
    assert restored is not None
    assert (restored.step, restored.lines) == (1, [line_of(1)])


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("where", ["manifest.json", "_METADATA", "history.jsonl"])
def test_a_passing_error_of_reading_is_raised_and_nothing_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    """The disk is well again afterwards, and so is the run."""
    save_steps(tmp_path, range(1, 4))
    names = sorted(path.name for path in tmp_path.iterdir())
    real = io.open

    def failing(file: Any, *arguments: Any, **settings: Any) -> Any:
        if str(file).endswith(where):
            raise OSError(number, os.strerror(number), str(file))
        return real(file, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", failing)
        patch.setattr("builtins.open", failing)
        with (
            pytest.raises(OSError, match=os.strerror(number)),
            checkpoints.open(tmp_path, identity()) as store,
        ):
            store.restore(parts_of(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with checkpoints.open(tmp_path, identity()) as store:
        restored = store.restore(parts_of(0))
    assert restored is not None
    assert restored.step == 3


def test_a_process_out_of_file_descriptors_keeps_its_checkpoints(tmp_path: Path) -> None:
    """Really too many open files: also inside orbax, which reads with threads of its own."""
    with start("starve", tmp_path) as process:
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    outcomes = json.loads(output)
    assert outcomes["refused"] > 0
    assert outcomes["restored"] > 0
    assert sorted(path.name[8:] for path in tmp_path.glob("*step*")) == [
        f"-step-{n}" for n in (1, 2, 3)
    ]


def test_a_checkpoint_of_an_older_format_is_refused_with_a_sentence(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 2))
    (folder,) = tmp_path.glob("*-step-1")
    text = json.dumps(
        json.loads((folder / "manifest.json").read_text().split("\n")[1]) | {"format": 1}
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(f"{digest}\n{text}\n")
    with pytest.raises(ValueError, match="of format 2, got one of format 1; read it with the vers"):
        checkpoints.open(tmp_path, identity())


def test_other_values_than_were_saved_are_seen_by_their_leaf(tmp_path: Path) -> None:
    """Files that are whole, and not those that belong to the manifest's leaves."""
    save_steps(tmp_path, range(1, 2))
    (folder,) = tmp_path.glob("*-step-1")
    manifest = on_disk.read_manifest(folder)
    parts = parts_of(1)
    parts["state"]["kernel"] = parts["state"]["kernel"].at[3, 4].add(1.0)
    shutil.rmtree(folder)
    folder.mkdir()
    on_disk.write(folder, manifest, {name: pack(part) for name, part in parts.items()})
    with (
        checkpoints.open(tmp_path, identity()) as store,
        pytest.raises(checkpoints.DamagedError, match="other values than were saved in state/kern"),
    ):
        store.restore(parts_of(0))


def test_leftovers_of_a_killed_writer_are_no_steps_and_are_removed(tmp_path: Path) -> None:
    save_steps(tmp_path, range(1, 3))
    leftover = tmp_path / ".partial-elsewhere-1-x"
    shutil.copytree(next(tmp_path.glob("*-step-2")), leftover / "00000002-step-3")
    with checkpoints.open(tmp_path, identity()) as store:
        assert store.steps() == [1, 2]
        assert not leftover.exists()


# Failing disks


@pytest.mark.parametrize("where", ["file/below", "/proc/checkpoints"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"must be one that can be written, got .*; pass another"):
        checkpoints.open(tmp_path / where, identity())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two megabytes of a file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this process may not mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def noise(step: int) -> dict[str, Any]:
    """600 kB that hardly compress: three fit the small disk."""
    return {"state": {"kernel": jax.random.normal(jax.random.key(step), (150_000,))}}


def test_a_full_disk_fails_the_save_that_met_it_and_loses_no_step(small_disk: Path) -> None:
    with checkpoints.open(small_disk, identify(noise(0), config={}), keep=9) as store:
        for step in (1, 2, 3):
            store.save(step, noise(step))
        store.save(4, noise(4))
        with pytest.raises(RuntimeError, match="the checkpoint of step 4 must reach the disk"):
            store.save(5, noise(5))
        assert store.steps() == [1, 2, 3]
        assert not list(small_disk.glob(".partial-*"))
        restored = store.restore(noise(0))
        assert restored is not None
        assert restored[0] == 3
        same_bits(restored.parts, noise(3))
        # The error is told once; with room again the run goes on saving.
        shutil.rmtree(next(small_disk.glob("*-step-1")))
        store.save(6, noise(6))
        store.wait()
        assert store.steps() == [2, 3, 6]


def test_the_last_save_reports_at_close(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(1_800_000))
    store = checkpoints.open(small_disk, identify(noise(0), config={}))
    store.save(7, noise(7))
    with pytest.raises(RuntimeError, match="step 7"):
        store.close()
    checkpoints.open(small_disk, identify(noise(0), config={})).close()


def test_an_error_of_the_run_is_not_hidden_by_one_of_its_save(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(1_800_000))

    def run() -> None:
        with checkpoints.open(small_disk, identify(noise(0), config={})) as store:
            store.save(7, noise(7))
            raise FloatingPointError("the run's own")

    with pytest.raises(FloatingPointError, match="the run's own") as raised:
        run()
    assert any("the checkpoint of step 7" in note for note in raised.value.__notes__)


# Processes


def start(action: str, *arguments: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), action, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def test_a_writer_killed_at_20_moments_leaves_only_whole_steps(tmp_path: Path) -> None:
    """Each goes on from where the one before was killed, after reading every step in full."""
    with start("kill", tmp_path) as process:
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    result = json.loads(output)
    assert result["killed"] == 20
    # Kills that fall inside a save are the point of the test: all 20 between saves would need
    # the folder never to have held a half-written one.
    assert result["leftovers"] > 0
    assert result["steps"] > 0


@pytest.mark.parametrize(
    ("manner", "status"), [("return", 3), ("raise", 1), ("exit", 1), ("forget", 0)]
)
def test_exit_after_a_failed_save_takes_no_time(small_disk: Path, manner: str, status: int) -> None:
    (small_disk / "filler").write_bytes(bytes(1_900_000))
    with start("fail", small_disk, manner) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n"
        # A hang takes minutes; the end of an interpreter with JAX in it, some 0.1 s.
        output, errors = process.communicate(timeout=20)
    assert process.returncode == status, errors
    told = "the checkpoint of step 1 must reach the disk"
    assert (told if manner != "forget" else "Exception in thread checkpoint of step 1") in (
        output + errors
    )


def test_a_store_that_nobody_closed_has_saved_or_says_that_it_has_not(tmp_path: Path) -> None:
    with start("forget", tmp_path) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    saved = [path.name for path in tmp_path.glob("*-step-*")] == ["00000000-step-5"]
    # The interpreter that is ending may refuse orbax its threads, in words that differ by Python.
    refused = "Exception in thread checkpoint of step 5", "cannot schedule new futures"
    assert saved or any(words in errors for words in refused)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with start("hold", tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OSError, match=f"process {holder.pid} on .* is using; give each run"):
            checkpoints.open(tmp_path, identity())
        holder.kill()
        holder.wait(timeout=60)
    with checkpoints.open(tmp_path, identity()), pytest.raises(OSError, match="one run at a time"):
        checkpoints.open(tmp_path, identity())

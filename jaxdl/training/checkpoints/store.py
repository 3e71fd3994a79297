"""Checkpoints of a run: written in the background, verified when they are read."""

import dataclasses
import os
import re
import shutil
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxdl.files import differences, lock, partial_folder, publish
from jaxdl.training.checkpoints import on_disk
from jaxdl.training.checkpoints.identity import changes, refusal
from jaxdl.training.checkpoints.on_disk import DamagedError, Manifest
from jaxdl.training.checkpoints.packing import (
    Bytes,
    check_held,
    describe,
    pack,
    unpack,
    with_digests,
)
from jaxdl.training.checkpoints.processes import Outcome, from_primary

# The number orders the saves. The step cannot: after a return to the best state it does not rise.
_NAME = re.compile(r"(\d{8,})-step-(\d+)")
_ASIDE = "damaged-"


def open(folder: str | os.PathLike[str], identity: Mapping[str, Any], *, keep: int = 3) -> "Store":
    """Lock a folder for the checkpoints of one run, until the store is closed or the process ends.

    Arguments:
        folder: created if missing.
        identity: from `identify`; a later run must match it to go on from these checkpoints.
        keep: how many of the newest checkpoints to keep, at least 1.

    Raises:
        OSError: the folder cannot be written, or another run is using it.
        ValueError: `keep` is below 1, or the newest checkpoint is of another model, optimizer,
            dtype or setting; the message names the differences.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from jaxdl.training.checkpoints.identity import identify
        >>> state = {"kernel": jnp.ones((3, 2))}
        >>> folder = tempfile.mkdtemp()
        >>> with open(folder, identify(state, config={})) as store:
        ...     store.save(100, state, {"losses": [0.5, 0.25]})
        >>> with open(folder, identify(state, config={})) as store:
        ...     step, restored, extra = store.restore(state)
        >>> step, extra
        (100, {'losses': [0.5, 0.25]})
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}; the newest checkpoint is kept")
    # Import now: otherwise training would wait for the import at the first save.
    import orbax.checkpoint  # noqa: F401  (it is used in a thread)

    path = Path(folder).absolute()
    taken: list[int] = []

    def take() -> Outcome:
        taken.append(lock(path))
        try:
            _remove_partial(path)
            _check_newest(path, identity)
        except BaseException:
            os.close(taken.pop())
            raise
        return "", []

    from_primary(take)
    return Store(path, identity, keep, taken[0] if taken else None)


class Store:
    """A folder of checkpoints, locked by this process; made by `open`.

    With several processes, process 0 writes and reads, and every process must make the same calls.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], keep: int, held: int | None
    ) -> None:
        self.folder = folder
        self._identity = identity
        self._keep = keep
        self._lock = held
        self._writer: threading.Thread | None = None
        self._failure: tuple[int, Exception] | None = None
        self._closed = False

    def save(self, step: int, tree: Any, extra: Any = None) -> None:
        """Copy `tree` to the host and write it in the background; one save at a time.

        Arguments:
            step: the run's step.
            tree: a pytree of arrays and PRNG keys; its buffers may be donated afterwards.
            extra: what else a run needs to go on: lists and mappings of NumPy arrays and JSON
                values. A tuple comes back as a list.

        Raises:
            RuntimeError: the previous save failed; the message names its step.
            TypeError: a leaf is no array, or `extra` holds something else.
            ValueError: the step is negative, or the tree empty.
        """
        self.wait()
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}; count the updates made")
        encoded, arrays = on_disk.split_extra(extra)
        check_held(tree)
        if self._lock is None:
            return
        (leaves, array_leaves), parts = pack(tree, arrays)
        if not parts:
            raise ValueError("tree must hold at least one number, got none; save a TrainState")
        manifest = Manifest(step, self._identity, leaves, array_leaves, encoded, {})
        # Not a daemon: a process that ends without closing its store waits for the save.
        self._writer = threading.Thread(
            target=self._write, args=(manifest, parts), name=f"checkpoint of step {step}"
        )
        self._writer.start()

    def restore(self, target: Any) -> tuple[int, Any, Any] | None:
        """The step, tree and extra of the newest undamaged checkpoint; None if there is none.

        A damaged checkpoint is renamed to `damaged-...` with a warning, and the one before it is
        read.

        Arguments:
            target: a tree of arrays or `jax.ShapeDtypeStruct`. Each leaf is restored to its
                devices.

        Raises:
            RuntimeError: the previous save failed.
            ValueError: the checkpoint has another tree or other settings; the message names the
                differences.
        """
        self.wait()
        wanted = describe(target)

        def find() -> Outcome:
            found = self._newest_whole(wanted)
            return ("", []) if found is None else (on_disk.to_text(found[0]), found[1])

        text, parts = from_primary(find)
        if not text:
            return None
        manifest = on_disk.from_text(text)
        arrays = on_disk.arrays_of(manifest, parts)
        extra = on_disk.join_extra(manifest.extra, arrays)
        return manifest.step, unpack(target, manifest.tree, parts), extra

    def wait(self) -> None:
        """Wait until the save in progress is on disk.

        Raises:
            RuntimeError: the save failed; the message names its step. Raised once.
        """
        if self._closed:
            raise RuntimeError("the store must be open, got a closed one; open the folder again")
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            (step, failure), self._failure = self._failure, None
            raise RuntimeError(
                f"the checkpoint of step {step} must reach the disk, got "
                f"{type(failure).__name__}: {failure}; see to {self.folder}, "
                "where the earlier steps are as they were"
            ) from failure

    def close(self) -> None:
        """Wait for the save and unlock the folder, also after an error.

        Raises:
            RuntimeError: the last save failed.
        """
        if self._closed:
            return
        try:
            self.wait()
        finally:
            self._closed = True
            if self._lock is not None:
                os.close(self._lock)

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except RuntimeError as failure:
            # An error of the run is raised itself, with a note. An exit would not show the note.
            if not isinstance(error, Exception):
                raise
            error.add_note(str(failure))

    def steps(self) -> list[int]:
        """The steps in the folder, oldest save first. Only `restore` finds damage."""
        return [step for _, step, _ in _saves(self.folder)]

    def _write(self, manifest: Manifest, parts: list[Bytes]) -> None:
        try:
            manifest = dataclasses.replace(
                manifest,
                tree=with_digests(manifest.tree, parts),
                arrays=with_digests(manifest.arrays, parts),
            )
            with partial_folder(self.folder) as partial:
                made = partial / f"{_next_number(self.folder):08d}-step-{manifest.step}"
                made.mkdir()
                on_disk.write(made, manifest, parts)
                publish(made, self.folder / made.name)
                # Rename before removing: a listed checkpoint is never half removed.
                for _, _, old in _saves(self.folder)[: -self._keep]:
                    os.replace(old, partial / old.name)
        except Exception as error:  # the run's next call raises it
            self._failure = (manifest.step, error)
            if not threading.main_thread().is_alive():
                raise  # the program is ending, so no call will follow

    def _newest_whole(self, wanted: Mapping[str, str]) -> tuple[Manifest, list[Bytes]] | None:
        saves = _saves(self.folder)
        for _, _, path in reversed(saves):
            try:
                manifest = on_disk.read_manifest(path)
                stored = {leaf.name: leaf.kind for leaf in manifest.tree}
                different = "; ".join(differences(stored, wanted)) or refusal(
                    manifest.identity, self._identity
                )
                if different:
                    raise ValueError(_refused(path, different))
                parts = on_disk.read_parts(path, manifest)
            except DamagedError as error:
                aside = path.with_name(_ASIDE + path.name)
                os.replace(path, aside)
                warnings.warn(
                    f"a damaged checkpoint is passed over: {error}; it is kept as {aside.name}, "
                    "and the one before it is taken",
                    stacklevel=5,
                )
                continue
            changed = changes(manifest.identity, self._identity)
            if changed:
                warnings.warn(
                    f"the run goes on from {path} equal to rounding, not bit for bit: {changed}",
                    stacklevel=5,
                )
            return manifest, parts
        if saves:
            warnings.warn(
                f"no checkpoint in {self.folder} is whole; the run starts anew", stacklevel=5
            )
        return None


def _saves(folder: Path) -> list[tuple[int, int, Path]]:
    """Number, step and path of each checkpoint, oldest first."""
    found = []
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), int(match[2]), path))
    return sorted(found)


def _next_number(folder: Path) -> int:
    """One more than the highest number, damaged checkpoints included: no name repeats."""
    names = [path.name.removeprefix(_ASIDE) for path in folder.iterdir()]
    return 1 + max((int(match[1]) for match in map(_NAME.fullmatch, names) if match), default=-1)


def _remove_partial(folder: Path) -> None:
    """Remove what killed writers left. The lock says that no writer is alive."""
    for leftover in folder.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _check_newest(folder: Path, identity: Mapping[str, Any]) -> None:
    for _, _, path in reversed(_saves(folder)):
        try:
            stored = on_disk.read_manifest(path).identity
        except DamagedError:
            continue  # `restore` warns of it and skips it
        different = refusal(stored, identity)
        if different:
            raise ValueError(_refused(path, different))
        return


def _refused(path: Path, different: str) -> str:
    return (
        f"a run must go on with the model, optimizer and settings of its checkpoint, got others "
        f"than in {path}: {different}; go back to them, or pass another folder"
    )

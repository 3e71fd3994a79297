"""Checkpoints of a run: written in the background, verified when they are read."""

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, SupportsIndex

from jaxdl.checks import require_at_least
from jaxdl.files import differences, lock, partial_folder, publish
from jaxdl.notices import notice
from jaxdl.training.checkpoints import on_disk
from jaxdl.training.checkpoints.errors import DamagedError
from jaxdl.training.checkpoints.identity import changes, refusal
from jaxdl.training.checkpoints.listing import ASIDE, next_number, remove_partial, saves
from jaxdl.training.checkpoints.log import Log, Position
from jaxdl.training.checkpoints.on_disk import Manifest
from jaxdl.training.checkpoints.packing import (
    Bytes,
    Leaf,
    check_held,
    describe,
    digest,
    named,
    pack,
    unpack,
)
from jaxdl.training.checkpoints.processes import Outcome, from_primary


class Restored(NamedTuple):
    """What a checkpoint held: the step, the parts, the extra values and all lines of the log."""

    step: int
    parts: Any
    extra: Any
    lines: list[Any]


def open(
    folder: str | os.PathLike[str],
    identity: Mapping[str, Any],
    *,
    keep: SupportsIndex = 3,
    accept: Collection[str] = (),
) -> "Store":
    """Lock a folder for the checkpoints of one run, until the store is closed or the process ends.

    Arguments:
        folder: created if missing.
        identity: from `identify`; a later run must match it to go on from these checkpoints.
        keep: how many of the newest checkpoints to keep, at least 1.
        accept: the parts of the recipe in which this run may differ.

    Raises:
        OSError: the folder cannot be written or read, or another run is using it.
        ValueError: `keep` is below 1, or the newest checkpoint is of another model, optimizer,
            dtype, setting or recipe; the message names the differences.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from jaxdl.training.checkpoints.identity import identify
        >>> parts = {"state": {"kernel": jnp.ones((3, 2))}}
        >>> folder = tempfile.mkdtemp()
        >>> with open(folder, identify(parts, config={})) as store:
        ...     store.save(100, parts, extra="half way", lines=[{"loss": 0.5}])
        >>> with open(folder, identify(parts, config={})) as store:
        ...     step, restored, extra, lines = store.restore(parts)
        >>> step, extra, lines
        (100, 'half way', [{'loss': 0.5}])
    """
    require_at_least(1, keep=keep)
    # Import now: otherwise training would wait for the import at the first save.
    import orbax.checkpoint  # noqa: F401  (it is used in a thread)

    path = Path(folder).absolute()
    taken: list[int] = []

    def refused(stored: Mapping[str, Any]) -> str:
        return refusal(stored, identity, accept)

    def take() -> Outcome:
        taken.append(lock(path))
        try:
            remove_partial(path)
            _check_newest(path, refused)
        except BaseException:
            os.close(taken.pop())
            raise
        return "", []

    from_primary(take)
    return Store(path, identity, int(keep), taken[0] if taken else None, refused)


class Store:
    """A folder of checkpoints, locked by this process; made by `open`.

    With several processes, process 0 writes and reads, and every process must make the same calls.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        keep: int,
        held: int | None,
        refused: Callable[[Mapping[str, Any]], str],
    ) -> None:
        self.folder = folder
        self._identity = identity
        self._keep = keep
        self._lock = held
        self._refused = refused
        self._log = Log(folder)
        self._unwritten: list[Any] = []
        self._restored = held is None or not saves(folder)
        self._writer: threading.Thread | None = None
        self._failure: tuple[int, Exception] | None = None
        self._closed = False

    def save(
        self, step: int, parts: Mapping[str, Any], *, extra: Any = None, lines: Sequence[Any] = ()
    ) -> None:
        """Copy `parts` to the host and write them in the background; one save at a time.

        Arguments:
            step: the run's step.
            parts: pytrees of arrays and PRNG keys by names. Each becomes an orbax checkpoint of
                this name. Their buffers may be donated afterwards.
            extra: what else a run needs to go on: a value that JSON can hold.
            lines: JSON values to append to the log. No save writes the lines before them again.

        Raises:
            RuntimeError: the previous save failed; the message names its step. Or the folder has
                checkpoints, and none was restored.
            TypeError: a leaf is no array, or JSON cannot hold `extra` or `lines`.
            ValueError: the step is negative, or there are no numbers.
        """
        self.wait()
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}; count the updates made")
        json.dumps([extra, lines])
        check_held(parts)
        if self._lock is None:
            return
        if not self._restored:
            raise RuntimeError(
                f"a store must restore before it saves, got {self.folder} with checkpoints and no "
                "call of restore; call it, or open an empty folder"
            )
        packed = {name: pack(tree) for name, tree in parts.items()}
        if not named(packed):
            raise ValueError("parts must hold at least one number, got none; save a TrainState")
        leaves = {
            name: Leaf(str(leaf.dtype), tuple(leaf.shape), "")
            for name, leaf in named(parts).items()
        }
        self._unwritten += lines
        manifest = Manifest(step, self._identity, leaves, extra, Position(), {})
        # Not a daemon: a process that ends without closing its store waits for the save.
        self._writer = threading.Thread(
            target=self._write, args=(manifest, packed), name=f"checkpoint of step {step}"
        )
        self._writer.start()

    def restore(self, target: Mapping[str, Any]) -> Restored | None:
        """The newest undamaged checkpoint; None if the folder has none.

        A damaged checkpoint is renamed to `damaged-...` with a warning, and the one before it is
        read.

        Arguments:
            target: parts of arrays or `jax.ShapeDtypeStruct`. Each leaf is restored to its
                devices.

        Raises:
            DamagedError: every checkpoint is damaged. None is renamed.
            OSError: a checkpoint cannot be read now. None is renamed.
            RuntimeError: the previous save failed.
            ValueError: the checkpoint has other leaves, settings or another recipe; the message
                names the differences.
        """
        self.wait()
        wanted = describe(target)

        def find() -> Outcome:
            found = self._newest_whole(wanted)
            if found is None:
                return "", []
            manifest, leaves, lines = found
            return json.dumps([on_disk.to_text(manifest), lines]), list(leaves.values())

        text, arrays = from_primary(find)
        self._restored = True
        if not text:
            return None
        of_manifest, lines = json.loads(text)
        manifest = on_disk.from_text(of_manifest)
        held = [name for name, leaf in manifest.leaves.items() if 0 not in leaf.shape]
        parts = unpack(target, dict(zip(held, arrays, strict=True)))
        return Restored(manifest.step, parts, manifest.extra, lines)

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
        return [step for _, step, _ in saves(self.folder)]

    def _write(self, manifest: Manifest, packed: Mapping[str, Any]) -> None:
        try:
            digests = {name: digest(array) for name, array in named(packed).items()}
            manifest = dataclasses.replace(
                manifest,
                leaves={
                    name: dataclasses.replace(leaf, digest=digests.get(name, ""))
                    for name, leaf in manifest.leaves.items()
                },
                log=self._log.write(self._unwritten),
            )
            with partial_folder(self.folder) as partial:
                made = partial / f"{next_number(self.folder):08d}-step-{manifest.step}"
                made.mkdir()
                on_disk.write(made, manifest, packed)
                publish(made, self.folder / made.name)
                self._log.keep()
                self._unwritten.clear()
                # Rename before removing: a listed checkpoint is never half removed.
                for _, _, old in saves(self.folder)[: -self._keep]:
                    os.replace(old, partial / old.name)
        except Exception as error:  # the run's next call raises it
            self._failure = (manifest.step, error)
            if not threading.main_thread().is_alive():
                raise  # the program is ending, so no call will follow

    def _newest_whole(
        self, wanted: Mapping[str, str]
    ) -> tuple[Manifest, dict[str, Bytes], list[Any]] | None:
        damaged: list[tuple[Path, DamagedError]] = []
        for _, _, path in reversed(saves(self.folder)):
            try:
                manifest = on_disk.read_manifest(path)
                stored = {name: leaf.kind for name, leaf in manifest.leaves.items()}
                different = "; ".join(differences(stored, wanted)) or self._refused(
                    manifest.identity
                )
                if different:
                    raise ValueError(_not_this_run(path, different))
                leaves = on_disk.read_leaves(path, manifest)
                lines = self._log.read(manifest.log)
            except DamagedError as error:
                damaged.append((path, error))
                continue
            for aside, reason in damaged:
                os.replace(aside, aside.with_name(ASIDE + aside.name))
                notice(
                    f"a damaged checkpoint is passed over: {reason}; it is kept as "
                    f"{ASIDE + aside.name}, and the one before it is taken",
                )
            changed = changes(manifest.identity, self._identity)
            if changed:
                notice(f"the run goes on from {path} {changed}")
            return manifest, leaves, lines
        before = sorted(self.folder.glob(f"{ASIDE}*"))
        if damaged or before:
            reasons = [str(error) for _, error in damaged] + [path.name for path in before]
            raise DamagedError(
                f"a run must go on from a whole checkpoint, got none in {self.folder}: "
                f"{'; '.join(reasons)}; pass another folder to start anew"
            )
        return None


def _check_newest(folder: Path, refused: Callable[[Mapping[str, Any]], str]) -> None:
    for _, _, path in reversed(saves(folder)):
        try:
            stored = on_disk.read_manifest(path).identity
        except DamagedError:
            continue  # `restore` warns of it and skips it
        different = refused(stored)
        if different:
            raise ValueError(_not_this_run(path, different))
        return


def _not_this_run(path: Path, different: str) -> str:
    return (
        f"a run must go on with the model, optimizer and settings of its checkpoint, got others "
        f"than in {path}: {different}; go back to them, or pass another folder"
    )

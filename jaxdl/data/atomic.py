"""Files and folders that appear whole or not at all."""

import contextlib
import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".partial-"
_STALE_SECONDS = 24 * 3600.0


@contextlib.contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """Give a private folder in `parent`, gone at the end; `publish` moves what is whole out of it.

    A killed process leaves its folder behind. No reader looks at such a name, and the next
    writer sweeps those whose process is gone, or, from another host, a day old.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    prefix = f"{_PREFIX}{socket.gethostname()}-{os.getpid()}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, destination: Path) -> None:
    """Move a finished file or folder to `destination`, replacing what is there.

    Everything is synced to disk first, so that a name never outlives its content. Between
    removing an old folder and naming the new one there is no folder, never half of one.
    """
    for path in [*made.rglob("*"), made] if made.is_dir() else [made]:
        _sync(path)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.is_dir():
        # A folder cannot be renamed over one that has files: the old one steps aside, into the
        # private folder that is about to be removed.
        os.replace(destination, made.with_name(made.name + ".old"))
    try:
        os.replace(made, destination)
    except OSError as error:
        # Another process has published meanwhile: its folder is as whole as this one.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    _sync(destination.parent)


def sweep(parent: Path) -> None:
    """Remove the folders that killed writers left in `parent`."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if _is_stale(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_stale(folder: Path) -> bool:
    host, _, pid = folder.name.removeprefix(_PREFIX).rpartition("-")[0].rpartition("-")
    # On other systems than POSIX, signal 0 is no harmless question.
    if host == socket.gethostname() and pid.isdigit() and os.name == "posix":
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's live process
    try:
        return time.time() - folder.stat().st_mtime > _STALE_SECONDS
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return  # only POSIX can open a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files and folders: whole or not at all, one writer at a time, and whose they are."""

import contextlib
import errno
import os
import reprlib
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_PREFIX = ".partial-"
_LOCK = ".lock"
_STALE_SECONDS = 24 * 3600.0


@contextlib.contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """Give a private folder in `parent`, gone at the end; `publish` moves what is whole out of it.

    A killed process leaves its folder behind. No reader looks at such a name, and the next
    writer sweeps those whose process is gone, or, from another host, a day old.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
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


def remove_leftovers(parent: Path) -> None:
    """Remove the folders that killed writers left in `parent`."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if _is_stale(folder):
            shutil.rmtree(folder, ignore_errors=True)


def lock(folder: Path) -> int:
    """Take the folder, made if it is not there; the kernel gives it back when the process ends.

    Returns:
        A file descriptor; closing it gives the folder back.

    Raises:
        OSError: another run has taken it, or it cannot be written.

    Example:
        >>> import tempfile
        >>> descriptor = lock(Path(tempfile.mkdtemp()))
        >>> os.close(descriptor)
    """
    try:
        import fcntl
    except ImportError:
        raise OSError("a folder of its own needs POSIX's flock, got a system without it") from None
    descriptor: int | None = None
    taken = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        taken = True
    except BlockingIOError:
        holder = (folder / _LOCK).read_text(encoding="utf-8") or "another process"
        raise OSError(
            f"a checkpoint folder must serve one run at a time, got {folder}, which {holder} is "
            "using; give each run a folder of its own"
        ) from None
    except OSError as error:
        raise OSError(
            f"the checkpoint folder must be one that can be written, got {folder} ({error}); "
            "pass another folder"
        ) from error
    finally:
        if descriptor is not None and not taken:
            os.close(descriptor)
    return descriptor


def differences(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], inside: str = ""
) -> list[str]:
    """What a reader must know to see why two descriptions do not match, a line each.

    Arguments:
        stored: by name, what the folder was made for; mappings may hold mappings.
        wanted: the same of who opens it now.
        inside: what stands before each name.

    Example:
        >>> differences({"a": "float32[2]", "b": 1}, {"a": "float32[3]", "c": 1})
        ['a is float32[2] there and float32[3] here', 'b is there and not here',
         'c is here and not there']
    """
    lines = []
    for name in stored:
        if name not in wanted:
            continue
        there, here = stored[name], wanted[name]
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            lines += differences(there, here, f"{inside}{name} ")
        elif there != here:
            lines.append(f"{inside}{name} is {_short(there)} there and {_short(here)} here")
    lines += [f"{inside}{name} is there and not here" for name in stored if name not in wanted]
    return lines + [
        f"{inside}{name} is here and not there" for name in wanted if name not in stored
    ]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else reprlib.repr(value)


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

"""Write files and folders whole or not at all, lock a folder, and check what it was made for."""

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
_REPLACED = ".replaced-"
_LOCK = ".lock"

# Long enough to show where two settings differ, short enough for arrays of thousands.
_REPR = reprlib.Repr()
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 50
_REPR.maxstring = _REPR.maxother = 500
_STALE_SECONDS = 24 * 3600.0


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user writes it: `~` is the home folder.

    Example:
        >>> as_path("~/runs") == Path.home() / "runs"
        True
    """
    return Path(path).expanduser()


@contextlib.contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """Give a private folder in `parent`, removed at the end; `publish` moves finished files out.

    A killed process leaves its folder behind. No reader looks at such a name. The next writer
    removes a folder whose process is gone. A folder from another host is removed after a day.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    folder = _private(_PREFIX, parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, destination: Path) -> None:
    """Move a finished file or folder to `destination`, replacing what is there.

    Everything is synced to disk first, so that a name never exists without its content. While an
    old folder is replaced there is no folder for a moment, but never half of one. If the process is
    killed in that moment, the old folder stands aside, and `restore` puts it back.

    Raises:
        IsADirectoryError: a file would replace a folder; nothing is touched.
        NotADirectoryError: a folder would replace a file; nothing is touched.
    """
    if made.is_dir():
        if destination.exists() and not destination.is_dir():
            raise NotADirectoryError(
                f"path must be a folder, got the file {destination}; pass another, or remove it"
            )
    else:
        require_no_folder(destination)
    for path in [*made.rglob("*"), made] if made.is_dir() else [made]:
        _sync(path)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.is_dir():
        _replace_folder(made, destination)
    else:
        _move(made, destination)
    _sync(destination.parent)


def require_no_folder(path: Path) -> None:
    """Refuse a folder where a file shall be written.

    Raises:
        IsADirectoryError: the path is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"path must be a file, got the folder {path}; name a file in it")


def restore(parent: Path) -> None:
    """Put back the folders of `parent` that a killed `publish` had moved aside.

    Whoever looks for a folder that `publish` replaces calls this first.
    """
    for old in parent.glob(f"{_REPLACED}*/*"):
        if not (parent / old.name).exists():
            # Another process may be faster, or the folder may be one that only others may change.
            with contextlib.suppress(OSError):
                os.replace(old, parent / old.name)


def remove_leftovers(parent: Path) -> None:
    """Remove what killed writers left in `parent`, after `restore`."""
    restore(parent)
    for folder in [*parent.glob(f"{_PREFIX}*"), *parent.glob(f"{_REPLACED}*")]:
        needed = folder.name.startswith(_REPLACED) and _needed(folder)
        if not needed and _is_stale(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _replace_folder(made: Path, destination: Path) -> None:
    """Exchange two folders by two renames: no folder can be renamed over one that has files.

    Linux and macOS can exchange them in one step, but not on a network drive.
    """
    aside = _private(_REPLACED, destination.parent)
    old = aside / destination.name
    try:
        while True:
            with contextlib.suppress(FileNotFoundError):
                os.replace(destination, old)
            # If this fails, a reader has put the old folder back, or another process has published
            # its own, which is as whole as this one.
            if _move(made, destination) or old.exists():
                break
    finally:
        restore(destination.parent)
        if not _needed(aside):
            # It is removed with the private folder.
            os.replace(aside, made.with_name(aside.name))


def _move(made: Path, destination: Path) -> bool:
    """Rename, and say whether it was done; it is not where a folder with files stands already."""
    try:
        os.replace(made, destination)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _needed(aside: Path) -> bool:
    """Whether a folder of replaced folders holds one that has no successor."""
    return any(not (aside.parent / old.name).exists() for old in aside.glob("*"))


def _private(prefix: str, parent: Path) -> Path:
    name = f"{prefix}{socket.gethostname()}-{os.getpid()}-"
    return Path(tempfile.mkdtemp(prefix=name, dir=parent))


def lock(folder: Path) -> int:
    """Lock the folder, created if missing; the kernel unlocks it when the process ends.

    Returns:
        A file descriptor; closing it unlocks the folder.

    Raises:
        OSError: another run has locked it, or it cannot be written.

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
    """The differences between two descriptions, one line for each.

    Arguments:
        stored: what the folder was made for, by name; mappings may hold mappings.
        wanted: the same for the run that opens it now.
        inside: a prefix for each name.

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
    return value if isinstance(value, str) else _REPR.repr(value)


def _is_stale(folder: Path) -> bool:
    owner = folder.name.removeprefix(_PREFIX).removeprefix(_REPLACED)
    host, _, pid = owner.rpartition("-")[0].rpartition("-")
    # On POSIX signal 0 is a harmless question; on other systems it is not.
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

"""One run a folder: a lock that no killed process leaves behind."""

import os
import socket
from pathlib import Path

_FILE = ".lock"


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
        raise OSError("a checkpoint folder needs POSIX's flock, got a system without it") from None
    descriptor: int | None = None
    taken = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        taken = True
    except BlockingIOError:
        holder = (folder / _FILE).read_text(encoding="utf-8") or "another process"
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

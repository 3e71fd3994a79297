"""Kill a writer with SIGKILL before each of its file operations in turn, then look and run again.

Run: python killed_writers.py cache|prepare RAW SCRATCH; prints how many writers were killed.
"""

import dataclasses
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxdl.data.builders import find_prepared, read_prepared
from jaxdl.data.cache import write_cache
from jaxdl.data.catalog import FASHION_MNIST
from jaxdl.data.releases import load_files, prepare_files
from jaxdl.data.types import Arrays, Dataset

_OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}
_MOST_KILLS = 12


def forked(action: Callable[[], None], data_dir: Path, kill_before: int | None) -> tuple[int, int]:
    """Run `action` in a process of its own: its exit status, and the operations it was seen to do.

    An operation is one that Python audits, on a path below `data_dir`.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = 0

        def watch(event: str, arguments: tuple) -> None:
            nonlocal seen
            if event in _OPERATIONS and str(arguments[0]).startswith(str(data_dir)):
                seen += 1
                if seen == kill_before:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(watch)
            action()
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os.write(writer, str(seen).encode())
            os._exit(status)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reader) as pipe:
        return os.waitstatus_to_exitcode(status), int(pipe.read() or 0)


def main(writer: str, raw: Path, scratch: Path) -> None:
    import tensorflow_datasets  # noqa: F401  (once, before the forks)

    files = dataclasses.replace(
        FASHION_MNIST, system_folders=(raw,), published=(), examples=(30, 10)
    )
    expected = dict(np.load(scratch / "expected.npz", allow_pickle=False))

    def check(dataset: Dataset) -> None:
        for part, prefix in ((dataset.train, "train"), (dataset.test, "t10k")):
            np.testing.assert_array_equal(
                part.inputs[..., 0], expected[f"{prefix}-images-idx3-ubyte"]
            )
            np.testing.assert_array_equal(part.targets, expected[f"{prefix}-labels-idx1-ubyte"])

    def write(data_dir: Path) -> None:
        if writer == "cache":
            load_files(files, data_dir=data_dir, raw_dir=raw)
        else:
            prepare_files(files, data_dir=data_dir, raw_dir=raw)

    def start_with_an_older_copy(data_dir: Path) -> None:
        """A copy of other files, which the writer replaces."""
        if writer == "cache":
            write(data_dir)
            (copy,) = (data_dir / "decoded").iterdir()
            other = Arrays(np.zeros((1, 28, 28, 1), np.uint8), np.zeros(1, np.int32))
            write_cache(
                copy,
                Dataset(files.name, other, None, other, files.classes),
                source="other files",
                verified=False,
            )
        else:
            write(data_dir)

    def look_and_run_again(data_dir: Path) -> None:
        if writer == "prepare":
            copy = find_prepared(data_dir, files)
            assert copy is not None
            check(read_prepared(copy, files))
        write(data_dir)
        check(load_files(files, data_dir=data_dir, raw_dir=raw if writer == "cache" else None))
        leftovers = [*data_dir.rglob(".partial-*"), *data_dir.rglob(".replaced-*")]
        assert not leftovers, leftovers

    def steps(data_dir: Path) -> int:
        status, seen = forked(lambda: start_with_an_older_copy(data_dir), data_dir, None)
        assert status == 0
        return seen

    first = scratch / "first"
    steps(first)
    status, seen = forked(lambda: write(first), first, None)
    assert status == 0
    killed = 0
    for moment in np.unique(np.linspace(1, seen, min(seen, _MOST_KILLS)).astype(int)).tolist():
        data_dir = scratch / f"killed-{moment}"
        steps(data_dir)
        status, _ = forked(lambda d=data_dir: write(d), data_dir, moment)
        assert status == -signal.SIGKILL, (moment, status)
        killed += 1
        status, _ = forked(lambda d=data_dir: look_and_run_again(d), data_dir, None)
        assert status == 0, moment
    print(killed)


if __name__ == "__main__":
    # Nothing has started a thread yet that a forked process could wait for.
    warnings.filterwarnings("ignore", message=r".*fork\(\)")
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

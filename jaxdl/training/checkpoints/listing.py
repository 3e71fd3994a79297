"""The checkpoints of a folder, by the names of their folders."""

import re
import shutil
from pathlib import Path

# The number orders the saves. The step cannot: after a return to the best state it does not rise.
_NAME = re.compile(r"(\d{8,})-step-(\d+)")
ASIDE = "damaged-"


def saves(folder: Path) -> list[tuple[int, int, Path]]:
    """Number, step and path of each checkpoint, oldest first."""
    found = []
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), int(match[2]), path))
    return sorted(found)


def next_number(folder: Path) -> int:
    """One more than the highest number, damaged checkpoints included: no name repeats."""
    names = [path.name.removeprefix(ASIDE) for path in folder.iterdir()]
    return 1 + max((int(match[1]) for match in map(_NAME.fullmatch, names) if match), default=-1)


def remove_partial(folder: Path) -> None:
    """Remove what killed writers left. The lock says that no writer is alive."""
    for leftover in folder.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)

"""The rows of docs/optimizers.md, as expressions."""

import re
from pathlib import Path

TABLE = (Path(__file__).parents[1] / "docs" / "optimizers.md").read_text(encoding="utf-8")


def rows():
    """(lecture, for PyTorch's, PyTorch, for optax's, optax) of each row, "" where there is none."""
    lines = [line for line in TABLE.splitlines() if line.startswith("| `")]
    return [
        tuple(cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        for line in lines
    ]

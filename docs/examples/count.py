"""How many lines the five tasks take, beyond the model and the data, here and elsewhere.

A line of code is one that is not blank, no comment and no docstring. Imports count, but for those
of the model and the data.
"""

import ast
from pathlib import Path

HERE = Path(__file__).parent
TASKS = ("train", "weigh", "table", "keep", "measure")


def code_lines(path):
    """The lines of code of one task."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    left_out = {
        line
        for node in tree.body
        if (isinstance(node, ast.ImportFrom) and node.module in ("model", "digits"))
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for line in range(node.lineno, node.end_lineno + 1)
    }
    return sum(
        number not in left_out and bool(line.strip()) and not line.strip().startswith("#")
        for number, line in enumerate(source.splitlines(), start=1)
    )


def count():
    """{library: {task: lines}}."""
    folders = {"jaxdl": HERE, "keras": HERE / "keras", "skorch": HERE / "skorch"}
    return {
        library: {task: code_lines(folder / f"{task}.py") for task in TASKS}
        for library, folder in folders.items()
    }


if __name__ == "__main__":
    print(f"{'':8}", *(f"{task:>8}" for task in TASKS), f"{'all':>8}")
    for library, lines in count().items():
        print(f"{library:8}", *(f"{n:>8}" for n in [*lines.values(), sum(lines.values())]))

"""Runs the examples of a page of documentation."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from processes import environment

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def run_page(name: str) -> int:
    """Run all examples of `docs/name` as one, and say how many blocks there are."""
    page = DOCS / name
    blocks = re.findall(r"```pycon\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    _run_doctest(doctest.DocTestParser().get_doctest("".join(blocks), {}, page.name, str(page), 0))
    return len(blocks)


def _run_doctest(test: doctest.DocTest) -> None:
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    said: list[str] = []
    # JAX adds a note to an error that it lets through; older Pythons' doctest sees only the note.
    filtering = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        runner = doctest.DocTestRunner(optionflags=options)
        runner.run(test, out=said.append, clear_globs=False)
    finally:
        jax.config.update("jax_traceback_filtering", filtering)
    assert not said, "".join(said)


def _shell() -> dict[str, Any]:
    """This environment, where `python` is this one and finds this checkout from any folder."""
    places = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    return {"env": environment(**places), "capture_output": True, "text": True}


_BLOCK = re.compile(
    r"(?:^<!-- ([^\n]*) -->\n)?^```(python|pycon|bash)\n(.*?)^```$", re.DOTALL | re.M
)


def blocks_of(page: Path) -> list[tuple[str, str, str]]:
    """(remark, language, code) of each block of code; the remark is a comment just above it."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def run_blocks(page: Path) -> dict[str, Any]:
    """Run all blocks of a page in order, in this folder, and return what names they left.

    Blocks of Python share one namespace. Blocks of the shell are run by bash. A block is left out
    only if the line above it is `<!-- not run: why -->` or `<!-- run by: what runs it -->`.
    """
    space: dict[str, Any] = {"__name__": "__main__"}
    for number, (remark, language, code) in enumerate(blocks_of(page), 1):
        if re.match(r"not run: \S|run by: \S", remark):
            continue
        where = f"{page.name}, block {number}"
        if language == "bash":
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], **_shell())
            assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"
        elif language == "python":
            exec(compile(code, where, "exec"), space)
        else:
            test = doctest.DocTestParser().get_doctest(code, space, where, str(page), 0)
            _run_doctest(test)
            space.update(test.globs)
    return space

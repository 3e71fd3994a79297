"""Runs the examples of a page of documentation."""

import doctest
import re
from pathlib import Path

import jax

DOCS = Path(__file__).parents[1] / "docs"


def run_page(name: str) -> int:
    """Run all examples of `docs/name` as one, and say how many blocks there are."""
    page = DOCS / name
    blocks = re.findall(r"```pycon\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    test = doctest.DocTestParser().get_doctest("".join(blocks), {}, page.name, str(page), 0)
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    said: list[str] = []
    # JAX adds a note to an error that it lets through; older Pythons' doctest sees only the note.
    filtering = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        doctest.DocTestRunner(optionflags=options).run(test, out=said.append)
    finally:
        jax.config.update("jax_traceback_filtering", filtering)
    assert not said, "".join(said)
    return len(blocks)

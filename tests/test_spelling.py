"""Prose is spelt as in Britain; names in code are the field's, which are American.

Prose is the README, the changelog, the pages of docs/ and the docstrings of jaxdl and of the
experiments, without code: backticks, fenced blocks, doctests, maths, links, paths, dotted names,
and the names of arguments where a docstring describes them.
"""

import ast
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MADE = ("reference", "experiments", "_build", "build")
"""Folders of docs/ that are made of docstrings when the site is built."""
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if page.relative_to(ROOT / "docs").parts[0] not in MADE
    ),
]
SCRIPTS = [
    path
    for folder in ("jaxdl", "experiments", "docs/examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
STEMS = (
    "initial", "normal", "regular", "standard", "general", "memor", "recogn", "summar", "organ",
    "visual", "vector", "minim", "maxim", "real", "penal", "quant", "serial", "deserial", "special",
    "parametr", "character", "factor", "linear", "equal", "util", "emphas", "random", "parallel",
    "categor", "material", "token", "discret", "custom", "synchron", "final", "stabil",
    "orthogonal", "diagonal", "symmetr", "capital", "item", "optim",
)  # fmt: skip
ENDINGS = r"iz(?:e|es|ed|ing|ation|ations)"
AMERICAN = re.compile(
    rf"\b(?:un|re|de)?(?:{'|'.join(STEMS)}){ENDINGS}\b"
    r"|\b(?:analyz|catalyz)(?:e|es|ed|ing)\b"
    r"|\b(?:color|behavior|favor|neighbor|honor|labor)(?:s|ed|ing|ful|able|ite|hood)?\b"
    r"|\bcenter(?:s|ed|ing)?\b|\bgray(?:s|ish|scale)?\b"
    r"|\b(?:label|model|cancel|travel|signal)(?:ed|ing)\b"
    r"|\bartifacts?\b|\bfulfills?\b",
    re.IGNORECASE,
)
"""An optimizer and an initializer are things in the code, and keep their names in prose."""
TITLES = ("A mean field theory of batch normalization", "Group Normalization")
"""Of what is cited."""
CODE = (
    r"(?s)\A---\n.*?\n---\n",
    r"(?ms)^([`~:]{3,}).*?^\1",
    r"(?m)^[ \t]*(?:>>>|\.\.\. ).*$",
    r"(?s)\$\$.*?\$\$|\$[^$\n]+\$",
    r"(?:\{[\w:]+\})?``[^`]*``|(?:\{[\w:]+\})?`[^`]*`",
    r"(?<=\])\([^)]*\)|<[^>\n]+>",
    r"(?m)^[ \t]+[\w*]+(?:, [\w*]+)*:(?= )",
    r"\[regularization\]",  # the one experiment whose name alone is such a word
    r"[\w\-]*(?:[_/=]|(?<=\w)[(\[]|\.(?=\w))[\w./()=,\-\[\]]*",
)
"""What is no prose, in the order in which it is taken out."""


def prose(text):
    """A text without its code; a cited title counts as code."""
    for title in TITLES:
        text = re.sub(r"\s+".join(title.split()), " ", text)
    for pattern in CODE:
        text = re.sub(pattern, " ", text)
    return text


def american(text):
    """The words of a text's prose that are spelt as in America."""
    return [found[0] for found in AMERICAN.finditer(prose(text))]


def docstrings(script):
    """The strings that stand alone, with their lines: docstrings, those of constants among them."""
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        text = getattr(node.value, "value", None) if isinstance(node, ast.Expr) else None
        if isinstance(text, str):
            yield node.lineno, inspect.cleandoc(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_are_spelt_as_in_britain(page):
    assert american(page.read_text("utf-8")) == []


def test_docstrings_are_spelt_as_in_britain():
    read = [
        (f"{script.relative_to(ROOT)}:{line}", text)
        for script in SCRIPTS
        for line, text in docstrings(script)
    ]
    assert len(read) > len(SCRIPTS)
    assert {where: words for where, text in read if (words := american(text))} == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The initialization of the colors.", ["initialization", "colors"]),
        ("It behaves; its behavior, centered and gray.", ["behavior", "centered", "gray"]),
        ("Normalized and labeled", ["Normalized", "labeled"]),
        ("We learnt to analyze (initialization first)", ["analyze", "initialization"]),
        ("An optimizer, an initializer, a size, learned grey colours.", []),
        ("`normalization` and {py:func}`jaxdl.data.standardize`", []),
        ("Run: python experiments/initialization/lsuv.py", []),
        ("see data.standardize(x), jax.export.deserialize(bytes) or color=3", []),
        ("Arguments:\n    centered: whether the mean is centered.", ["centered"]),
        (">>> normalization()\nnormalisation", []),
        ("```python\ncolor = 1\n```\nbehaviour", []),
        ("---\ncolor: 1\n---\nA gray page", ["gray"]),
        ("[color of it](color.md) and [regularization](x.md)", ["color"]),
        ("Yang (2019), A mean field theory of\nbatch normalization", []),
    ],
)
def test_code_is_left_out_and_prose_is_not(text, words):
    assert american(text) == words

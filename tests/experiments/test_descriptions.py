"""Every experiment's docstring tells a student what it shows, and where its numbers come from."""

import ast
import re
from pathlib import Path

import pytest

from experiments.__main__ import by_name, by_theme
from jaxdl.claims.descriptions import described
from jaxdl.data import available

FIELDS = ["Meaning", "Data", "Source", "Run", "Expected", "Time"]
WIDTH = 100
"""Characters in a line, as in pyproject.toml."""
OF_NO_LECTURE = {"depth", *(script.stem for script in by_theme().get("beyond", []))}
"""Depth is a question of two figures of a textbook; the others go beyond the lectures."""
KNOWN = {entry.name for entry in available()}


def fields_of(docstring):
    """The fields in their order; a line that starts with a capitalised word and a colon is one."""
    parts = re.split(r"^([A-Z]\w+): ", docstring, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (" ".join(part.split()) for part in parts[1::2]), strict=True))


def sentences(text):
    """The sentences of a field, cut where a stop is followed by a capital."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)


def data_sets(script):
    """The known data sets whose names stand as strings in the code; the docstring is left out."""
    tree = ast.parse(script)
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return KNOWN & {word for word in words if isinstance(word, str)}


def faults(name, script):
    """What is wrong with a script's docstring, a line each."""
    docstring = ast.get_docstring(ast.parse(script)) or ""
    found = fields_of(docstring)
    if list(found) != FIELDS:
        return [f"its fields must be {FIELDS}, got {list(found)}"]
    said = [
        f"this line is longer than {WIDTH}: {line}"
        for line in docstring.split("\n")
        if len(line) > WIDTH
    ]
    said += [f"{field} must end a sentence" for field in FIELDS[:3] if found[field][-1] != "."]
    if not re.match(r".+[.?]\n\n", docstring):
        said.append("its first line must be a sentence, followed by an empty line")
    if len(sentences(found["Meaning"])) != 2:
        said.append(f"Meaning must be two sentences, got {sentences(found['Meaning'])}")
    first = re.split(r"[ ,;:.]", found["Data"])[0]
    named = {word for word in KNOWN if re.search(rf"\b{word}\b", found["Data"])}
    if first not in {*KNOWN, "none"} or (first == "none" and named):
        said.append(f"Data must start with a data set's name or with none, got {first}")
    if missing := data_sets(script) - named:
        said.append(f"Data must name {sorted(missing)}, which the code loads")
    if named and not data_sets(script):
        said.append(f"Data must be none where the code loads nothing, got {sorted(named)}")
    if named and not re.search(r"\d (grey|colour|examples|signals)", found["Data"]):
        said.append("Data must say how many examples there are")
    if ("lecture" in found["Source"]) == (name in OF_NO_LECTURE):
        said.append("Source must name the lecture")
    if f"experiments/{name}.py" not in found["Run"] and f"/{name}.py" not in found["Run"]:
        said.append(f"Run must run {name}.py")
    return said


@pytest.mark.parametrize("name", by_name())
def test_a_docstring_has_its_fields_in_one_order(name):
    script = by_name()[name].read_text("utf-8")
    assert faults(name, script) == []
    read = described(by_name()[name])
    assert {each: " ".join(getattr(read, each.lower()).split()) for each in FIELDS} == fields_of(
        ast.get_docstring(ast.parse(script))
    )


GOOD = '''"""A title.

What is measured.

Meaning: The curve shows a loss. It falls.

Data: digits, 1,797 grey digits of 8 x 8.
Source: the lecture on loss.
Run: python experiments/toy.py
Expected: it falls.
Time: 1 s.
"""
load("digits")
'''


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", None),
        ("Meaning: The curve shows a loss. It falls.\n", "", "fields"),
        ("Data: digits, 1,797 grey digits of 8 x 8.\n", "", "fields"),
        ("Source: the lecture on loss.\n", "", "fields"),
        ("Expected: it falls.\nTime: 1 s.", "Time: 1 s.\nExpected: it falls.", "fields"),
        ("It falls.\n", "", "two sentences"),
        ("It falls.\n", "It falls. Why?\nNobody knows.\n", "two sentences"),
        ("It falls.\n", "It falls\n", "end a sentence"),
        ("digits, 1,797 grey", "images, 1,797 grey", "start with"),
        ('load("digits")', "", "loads nothing"),
        ('load("digits")', 'load("digits")\nload("cifar10")', "cifar10"),
        ("digits, 1,797 grey digits of 8 x 8.", "none (synthetic).", "which the code loads"),
        ("1,797 grey", "some", "how many"),
        ("the lecture on loss", "Nobody (2000)", "lecture"),
        ("toy.py", "other.py", "Run"),
        ("A title.", "A title", "first line"),
        ("What is measured.", "What is measured. " * 6, "longer"),
    ],
)
def test_a_docstring_without_one_of_them_is_told(old, new, fault):
    script = GOOD.replace(old, new)
    assert (script == GOOD) == (fault is None)
    said = faults("toy", script)
    assert len(said) == (fault is not None)
    assert all(fault in line for line in said)


def test_a_script_without_a_docstring_is_told():
    assert "fields" in faults("toy", "x = 1")[0]


def test_the_width_is_that_of_the_formatter():
    root = Path(__file__).parents[2]
    assert f"line-length = {WIDTH}\n" in (root / "pyproject.toml").read_text("utf-8")

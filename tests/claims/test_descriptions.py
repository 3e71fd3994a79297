"""A script's docstring, read in parts: every script's, and the forms that a field takes."""

from pathlib import Path

import pytest

from jaxdl.claims.descriptions import Described, described, parts_of

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    path
    for path in sorted((ROOT / "experiments").rglob("*.py"))
    if path.stem != "__main__" and "benchmarks" not in path.parts
]

WHOLE = """Does it train?

A network of two layers,
and one of three.

    loss = (y - t)^2

Meaning: The curve falls. So it
trains.
Data: none.
Source: the lecture; Mishkin: a paper.
Run: python toy.py
Expected, on 5,000 digits: it falls
by half.
Undecided: whether it stops.

Time: 2 s.
"""


def test_every_part_is_read():
    assert parts_of(WHOLE) == Described(
        summary="Does it train?",
        text="A network of two layers, and one of three.\n\n    loss = (y - t)^2",
        meaning="The curve falls. So it trains.",
        data="none.",
        source="the lecture; Mishkin: a paper.",
        run="python toy.py",
        expected="On 5,000 digits: it falls by half. Undecided: whether it stops.",
        time="2 s.",
    )


@pytest.mark.parametrize(
    ("docstring", "part", "said"),
    [
        ("", "summary", ""),
        ("One line.", "summary", "One line."),
        ("A line.\n\nText.\nRun: python toy.py", "run", "python toy.py"),
        ("A line.\n\nText.\nRun: python toy.py", "text", "Text."),
        ("A line.\n\nRunning: far.", "text", "Running: far."),
        ("A line.\n\nThe data: two of them.", "data", ""),
        ("A line.\n\nSource:\nthe lecture.", "source", "the lecture."),
        ("A line.\n\nTime: 2 s.\n\nMore text.", "text", "More text."),
    ],
)
def test_a_field_begins_at_its_name_alone(docstring, part, said):
    assert getattr(parts_of(docstring), part) == said


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_of_every_script_the_parts_are_found_and_no_word_is_lost(script):
    found = described(script)
    assert found.summary
    assert found.run.startswith("python experiments/")
    assert found.expected
    assert found.time[0].isdigit()
    docstring = script.read_text(encoding="utf-8").split('"""')[1]
    # The field's names are no part of what they say.
    lost = sorted({*docstring.lower().split()} - {*" ".join(found).lower().split()})
    assert [word for word in lost if word.rstrip(":,").capitalize() not in FIELD_NAMES] == []


FIELD_NAMES = ("Meaning", "Data", "Source", "Run", "Expected", "Time")

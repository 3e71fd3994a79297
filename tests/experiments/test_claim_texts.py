"""The first part of a claim, up to the colon, is a sentence that a student can read alone."""

import json

import pytest

from experiments.__main__ import KEPT

FILES = sorted(KEPT.glob("*/claims.json"))


def faults(text):
    """What keeps a claim's first part from being shown as a sentence, a line each."""
    said, colon, measured = text.partition(": ")
    found = []
    if not colon or not measured:
        found.append("no ': ' that divides what is meant from what was measured")
    if not (said[:1].isupper() or said[:1].isdigit()):
        found.append("a first letter that is no capital")
    if said.count("(") != said.count(")"):
        found.append("a bracket that the colon cuts")
    if len(said.split()) < 3:
        found.append("a label, not a sentence")
    if ". " in said.replace("s.d. ", "").replace("al. ", ""):
        found.append("two sentences")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_the_first_part_of_a_kept_claim_is_a_sentence(file):
    texts = [claim["text"] for claim in json.loads(file.read_text("utf-8"))]
    assert texts
    assert {text: faults(text) for text in texts if faults(text)} == {}


def test_there_are_kept_claims():
    assert len(FILES) > 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("BatchNorm learns faster here: steps to 85 %", None),
        ("BatchNorm learns faster here", "no ': '"),
        ("dense networks are better deep: accuracy, %", "capital"),
        ("BatchNorm does not (the paper: it does) learns faster: steps", "bracket"),
        ("Glorot normal: a typical network's error", "label"),
        ("The gradient explodes. It grows by powers: of ten", "two sentences"),
    ],
)
def test_a_first_part_that_is_no_sentence_is_told(text, fault):
    found = faults(text)
    assert len(found) == (fault is not None)
    assert all(fault in line for line in found)

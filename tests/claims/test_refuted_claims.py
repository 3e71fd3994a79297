"""Refuted and undecided claims, with what their scripts expected."""

import json
from pathlib import Path

from jaxdl.claims import Claim, read_claims, refuted_claims, write_claims

ROOT = Path(__file__).parents[2]

CLAIMS = {
    "mixed": [Claim("a: one", 1, 1, 1), Claim("b: two", 3, 2, 2), Claim("c: three", 4, 3, 3)],
    "unsure": [Claim("d: four", 4, 4.5, 9, interval=(3, 5), surely=(2, 6))],
    "fine": [Claim("e: five", 5, 5, 5)],
}


def test_they_come_by_script_with_the_reasons(tmp_path):
    scripts = []
    for name in (*CLAIMS, "not_run"):
        scripts.append(tmp_path / f"{name}.py")
        scripts[-1].write_text(f'"""{name}.\n\nSource: a lecture.\nExpected: why {name}."""')
    for name, claims in CLAIMS.items():
        (tmp_path / "kept" / name).mkdir(parents=True)
        write_claims(tmp_path / "kept" / name, claims)
        (tmp_path / "kept" / name / "config.json").write_text(json.dumps({"preset": "default"}))
    found = refuted_claims({"One": scripts[:1], "Two": scripts[1:]}, tmp_path / "kept")
    assert [(each.script, each.refuted, each.undecided) for each in found] == [
        (scripts[0], CLAIMS["mixed"][1:], []),
        (scripts[1], [], CLAIMS["unsure"]),
    ]
    assert found[0].described.expected == "why mixed."
    assert found[0].described.source == "a lecture."


def test_none_that_the_project_keeps_is_left_out():
    kept = ROOT / "docs" / "gallery"
    scripts = [*(ROOT / "experiments").glob("*/*.py"), *(ROOT / "experiments").glob("*.py")]
    found = refuted_claims({"All": scripts}, kept)
    claims = [claim for file in kept.glob("*/claims.json") for claim in read_claims(file.parent)]
    for verdict in ("refuted", "undecided"):
        texts = [claim.text for each in found for claim in getattr(each, verdict)]
        assert sorted(texts) == sorted(c.text for c in claims if c.verdict == verdict)
        assert texts
    assert all(each.described.expected for each in found)

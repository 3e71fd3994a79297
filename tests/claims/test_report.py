"""Claims as JSON: what is read is what was written."""

import json

import numpy as np
import pytest

from jaxdl.claims import (
    Claim,
    about_mean,
    about_quantile,
    read_claims,
    write_claims,
)

CLAIMS = [
    Claim("a number", 1, 0, 2),
    Claim("no bounds", -1.5, -np.inf, np.inf),
    Claim("infinite", np.inf, 0, np.inf),
    about_mean("drawn <by> seeds", [1.0, 2.0, 3.0], low=0),
    about_quantile("too few runs for an end", [1.0, 2.0], low=0),
]


def test_claims_are_read_as_they_were_written(tmp_path):
    write_claims(tmp_path, CLAIMS)
    read = read_claims(tmp_path)
    assert read == CLAIMS
    assert [claim.verdict for claim in read] == [claim.verdict for claim in CLAIMS]


def test_the_file_is_strict_json_with_the_verdict(tmp_path):
    file = write_claims(tmp_path, [*CLAIMS, Claim("not a number", np.nan, 0, 1)])

    def refuse(constant):
        raise AssertionError(constant)

    entries = json.loads(file.read_text(), parse_constant=refuse)
    assert [entry["verdict"] for entry in entries] == [
        "holds", "holds", "holds", "undecided", "undecided", "refuted",
    ]  # fmt: skip
    assert entries[1]["high"] == "inf"
    assert np.isnan(read_claims(tmp_path)[-1].measured)


def test_claims_of_an_earlier_version_are_refused(tmp_path):
    (tmp_path / "claims.json").write_text('[{"text": "old", "measured": null}]')
    with pytest.raises(ValueError, match=r"as this version writes them, got one .* run the exper"):
        read_claims(tmp_path)

"""What the site is made of: docstrings as Markdown, every public name, addresses that hold."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / "docs" / "extensions"), str(ROOT)]

import experiment_pages  # noqa: E402
import links  # noqa: E402
import reference  # noqa: E402
import signatures  # noqa: E402
from docstrings import as_markdown  # noqa: E402

from jaxdl import losses, models, optimizers, training  # noqa: E402
from jaxdl.claims import read_claims  # noqa: E402

DOCSTRING = """A rule, as in `sgd`, not in `other`.

$$x_{t+1} = x_t * 2
    + 0$$

A pattern "block_*/norm" and a *word.

    from jaxdl import optimizers

Arguments:
    rate: eta, see `sgd`,
        at least 0.
    beta1, beta2: in [0, 1).

Raises:
    ValueError: a negative rate.

Example:
    >>> 1 + 1
    2

Source: a paper.
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    reference.write_reference(folder)
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}


def test_a_docstring_as_markdown():
    found = as_markdown(DOCSTRING, {"sgd": "jaxdl.optimizers.sgd"}.get)
    assert found.splitlines() == [
        "A rule, as in {py:obj}`sgd <jaxdl.optimizers.sgd>`, not in `other`.", "",
        "$$x_{t+1} = x_t * 2", "    + 0$$", "",
        r'A pattern "block_\*/norm" and a \*word.', "",
        "```python", "from jaxdl import optimizers", "```", "",
        "", "**Arguments**", "",
        "- `rate`: eta, see {py:obj}`sgd <jaxdl.optimizers.sgd>`,", "  at least 0.",
        "- `beta1`, `beta2`: in [0, 1).", "", "", "",
        "**Raises**", "", "- `ValueError`: a negative rate.", "", "", "",
        "**Example**", "", "```pycon", ">>> 1 + 1", "2", "```", "", "",
        "Source: a paper.",
    ]  # fmt: skip


def test_every_public_name_has_its_place(pages):
    names = reference.Names()
    assert set(pages) == {"index"} | {
        full.removeprefix("jaxdl.") for full in names.modules if full != "jaxdl"
    }
    for full in names.values:
        module, _, name = full.removeprefix("jaxdl.").rpartition(".")
        assert len(re.findall(rf"\{{py:\w+\}} {name}\b", pages[module])) == 1, full


def test_what_a_string_below_explains_is_said_in_the_table(pages):
    (row,) = re.findall(r"^\| .*`LearningRate .*$", pages["optimizers"], re.M)
    assert "A float, a schedule" in row


def test_equations_and_examples_are_on_the_page(pages):
    for function, page in (
        (optimizers.adam, "optimizers"),
        (losses.cross_entropy, "losses"),
        (training.fit, "training"),
    ):
        lines = [line.strip() for line in function.__doc__.splitlines()]
        kept = [line for line in lines if line.startswith(("$$", ">>>"))]
        assert kept
        shown = [line.strip() for line in pages[page].splitlines()]
        assert [line for line in kept if line not in shown] == []


def test_signatures_are_the_sources_words():
    assert "mask=is_kernel" in signatures.signature(optimizers.adamw)
    assert signatures.signature(models.MLP).startswith("(features: Sequence[int], activation")


def test_a_module_without_an_idea_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "IDEAS", {"All": ("training",)})
    with pytest.raises(ValueError, match=r"must place every public module, got .*jaxdl\.losses"):
        reference.write_reference(tmp_path)


def test_every_kept_claim_is_on_the_page_of_its_experiment_with_its_verdict(tmp_path):
    experiment_pages.write_experiments(ROOT, tmp_path)
    found = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.md")}
    count = {"refuted": 0, "undecided": 0}
    for folder in (ROOT / "docs" / "gallery").glob("*/"):
        claims = read_claims(folder)
        rows = [line for line in found[folder.name].splitlines() if line.startswith("| **")]
        assert len(rows) == len(claims)
        for row, claim in zip(rows, claims, strict=True):
            assert row.endswith(f"| {claim.band} | {experiment_pages.VERDICTS[claim.verdict]} |")
            if claim.verdict in count:
                assert row in found[claim.verdict].splitlines()
                count[claim.verdict] += 1
    for verdict, number in count.items():
        assert number > 0
        assert found[verdict].count(experiment_pages.VERDICTS[verdict]) == number


def test_addresses_that_lead_nowhere(tmp_path):
    (tmp_path / "other.html").write_text('<p id="here"></p>')
    (tmp_path / "page.html").write_text(
        '<a href="other.html#here"></a><a href="#own" id="own"></a><a href="https://a.org"></a>'
        '<a href="page.html#set=1"></a><img src="data:image/png;base64,AA">'
        '<link rel="canonical" href="https://a.org">'
    )
    assert links.broken_links(tmp_path) == []
    (tmp_path / "page.html").write_text(
        '<a href="other.html#there"></a><img src="none.png"><a href="gone.html"></a>'
        '<script src="https://a.org/b.js"></script><link rel="stylesheet" href="//a.org/b.css">'
    )
    assert links.broken_links(tmp_path) == [
        "page.html: //a.org/b.css comes from another host",
        "page.html: gone.html leads to no file",
        "page.html: https://a.org/b.js comes from another host",
        "page.html: none.png leads to no file",
        "page.html: other.html#there leads to no place on that page",
    ]

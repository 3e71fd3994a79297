"""The claims that runs refuted or could not decide, with what their scripts say of them."""

import os
from pathlib import Path
from typing import NamedTuple

from jaxdl.claims.claim import Claim
from jaxdl.claims.descriptions import Described, described
from jaxdl.claims.past_runs import Themes, find_run
from jaxdl.files import as_path


class Refuted(NamedTuple):
    """An experiment with claims that were refuted, or left undecided.

    Attributes:
        script: its file.
        described: what it says of itself; `described.expected` has the reasons.
        refuted: its refuted claims.
        undecided: its undecided claims.
    """

    script: Path
    described: Described
    refuted: list[Claim]
    undecided: list[Claim]


def refuted_claims(themes: Themes, kept: str | os.PathLike[str]) -> list[Refuted]:
    """Collect the refuted and undecided claims of kept runs, in the order of the themes.

    An experiment without a run, or all of whose claims hold, is left out.

    Arguments:
        themes: by title of a theme, its scripts' files.
        kept: a folder with a folder for each run, as `keep_runs` or `main` writes them.

    Raises:
        ValueError: the claims of a run were written by an earlier version.

    Example:
        >>> import tempfile
        >>> from jaxdl.claims import write_claims
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "toy.py").write_text("'''A toy.\\n\\nExpected: 2; rounding gives 3.'''")
        >>> (folder / "toy").mkdir()
        >>> _ = (folder / "toy" / "config.json").write_text('{"preset": "default"}')
        >>> _ = write_claims(folder / "toy", [Claim("Two: the number", 3, 2, 2)])
        >>> found = refuted_claims({"Toys": [folder / "toy.py"]}, folder)
        >>> [(each.described.expected, each.refuted[0].meaning) for each in found]
        [('2; rounding gives 3.', 'Two')]
    """
    found = []
    for script in (script for scripts in themes.values() for script in scripts):
        run = find_run(as_path(kept) / script.stem)
        of_verdict = {
            verdict: [claim for claim in run.claims if claim.verdict == verdict] if run else []
            for verdict in ("refuted", "undecided")
        }
        if any(of_verdict.values()):
            found.append(Refuted(script, described(script), **of_verdict))
    return found

"""What is shown and written of claims: a table in the terminal, JSON, a sentence on chance."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxdl.claims.claim import Claim, Ends, chance_of_all
from jaxdl.files import as_path
from jaxdl.plotting.document import as_sentence

EXPLAINED = (
    "A number in brackets is a 95 % interval over the runs. A claim is undecided where these runs "
    "cannot tell."
)
FILE = "claims.json"
_COLOURS = {"holds": "green", "undecided": "yellow", "refuted": "bold red"}


def report(claims: Sequence[Claim]) -> None:
    """Print the claims as a table, and how likely chance refutes one of them."""
    table = Table("claim", "measured", "expected", "", show_lines=True)
    for claim in claims:
        meaning, quantity, number, band, verdict = as_row(claim)
        # A terminal has one size of letters: what was measured is dimmed.
        text = Text(as_sentence(meaning), style="bold").append(
            f"\n{quantity}" if quantity else "", style="not bold dim"
        )
        table.add_row(text, number, band, f"[{_COLOURS[verdict]}]{verdict}[/]")
    console = Console()
    console.print(table)
    console.print(f"{EXPLAINED} {chance_in_words(claims)}")


def as_row(claim: Claim) -> tuple[str, str, str, str, str]:
    """(meaning, quantity, measured, expected, verdict) as text.

    Example:
        >>> as_row(Claim("One is less than two: one", 1, -np.inf, 2))
        ('One is less than two', 'one', '1', 'at most 2', 'holds')
    """
    return claim.meaning, claim.quantity, claim.number, claim.band, claim.verdict


def chance_in_words(claims: Iterable[Claim]) -> str:
    """How likely chance refutes one of several claims, as a sentence."""
    chance = 100 * chance_of_all(claims)
    return f"Chance refutes a true one of these claims in at most {chance:.2g} % of all runs."


def write_claims(folder: str | os.PathLike[str], claims: Sequence[Claim]) -> Path:
    """Write `claims.json` into a folder: a list with what `Claim` has, and the verdict.

    JSON has neither infinity nor NaN: these are the strings "inf", "-inf" and "nan", which
    `float` reads.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> file = write_claims(folder, [Claim("1 > 0", 1, 0, np.inf)])
        >>> read_claims(folder)
        [Claim(text='1 > 0', measured=1.0, low=0.0, high=inf, ...)]
    """
    file = as_path(folder) / FILE
    file.write_text(json.dumps([_as_json(claim) for claim in claims], indent=2) + "\n")
    return file


def read_claims(folder: str | os.PathLike[str]) -> list[Claim]:
    """Read what `write_claims` wrote into a folder.

    Raises:
        FileNotFoundError: nothing was written there.
        ValueError: an earlier version wrote it.
    """
    file = as_path(folder) / FILE
    return [_from_json(entry, file) for entry in json.loads(file.read_text())]


def _as_json(claim: Claim) -> dict[str, Any]:
    def number(value: SupportsFloat) -> float | str:
        value = float(value)
        return value if np.isfinite(value) else str(value)

    def ends(given: Ends | None) -> list[float | str] | None:
        return given and [number(end) for end in given]

    return {
        "text": claim.text,
        "measured": number(claim.measured),
        "low": number(claim.low),
        "high": number(claim.high),
        "interval": ends(claim.interval),
        "surely": ends(claim.surely),
        "chance": claim.chance,
        "verdict": claim.verdict,
    }


def _from_json(entry: dict[str, Any], file: Path) -> Claim:
    def ends(given: list[Any] | None) -> Ends | None:
        return (float(given[0]), float(given[1])) if given else None

    try:
        return Claim(
            entry["text"],
            float(entry["measured"]),
            float(entry["low"]),
            float(entry["high"]),
            ends(entry["interval"]),
            ends(entry["surely"]),
            entry["chance"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file} must hold claims as this version writes them, got one without {error}; run "
            "the experiment again"
        ) from error

"""What is left of a run of an experiment: its claims, its figure, and how it was made."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdl.claims.claim import Claim
from jaxdl.claims.report import read_claims

Themes = Mapping[str, Sequence[Path]]
"""By title of a theme, its scripts' files. They are read, not imported."""

CONFIG = "config.json"
THUMBNAIL = "thumbnail.png"
WIDTH = 560
"""Of a thumbnail, in pixels: twice what a card shows, for a fine screen."""


class PastRun(NamedTuple):
    """A run that `main` wrote.

    Attributes:
        folder: where it stands.
        claims: what it claims.
        preset: its preset.
        made: the knobs that were changed, the versions, the machine, the time and the date; None of
            a run of a version that did not write them.
    """

    folder: Path
    claims: list[Claim]
    preset: str
    made: dict[str, Any] | None

    @property
    def is_default(self) -> bool:
        """Whether it ran with the default preset, no knob changed."""
        return self.preset == "default" and self.made is not None and not self.made["changed"]

    def thumbnail(self) -> bytes | None:
        """Its figure as a small PNG."""
        for name in (THUMBNAIL, "figure.png"):
            if (self.folder / name).is_file():
                return smaller((self.folder / name).read_bytes())
        return None

    def how(self) -> str:
        """How it was made, in one line."""
        words = f'Preset "{self.preset}"'
        if self.made is None:
            return f"{words}."
        for name, value in self.made["changed"].items():
            words += f", {name} {value}"
        return (
            f"{words}: {self.made['seconds']:.0f} s on {self.made['cores']} cores of "
            f"{self.made['processor']}, Python {self.made['python']}, jax {self.made['jax']}, "
            f"{self.made['date']}."
        )


def find_run(folder: Path) -> PastRun | None:
    """The run in a folder, None if there is none.

    Raises:
        ValueError: an earlier version wrote its claims.
    """
    if not (folder / "claims.json").is_file():
        return None
    made = folder / "made.json"
    return PastRun(
        folder,
        read_claims(folder),
        json.loads((folder / CONFIG).read_text(encoding="utf-8"))["preset"],
        json.loads(made.read_text(encoding="utf-8")) if made.is_file() else None,
    )


def tally(claims: Iterable[Claim]) -> str:
    """How many hold, are undecided, are refuted, in words.

    Example:
        >>> tally([Claim("", 1, 0, 2), Claim("", 3, 0, 2), Claim("", 2, 0, 2)])
        '2 hold, 1 is refuted'
    """
    words = {
        "holds": ("holds", "hold"),
        "undecided": ("is undecided", "are undecided"),
        "refuted": ("is refuted", "are refuted"),
    }
    counts: Counter[str] = Counter(claim.verdict for claim in claims)
    said = [
        f"{counts[verdict]} {words[verdict][counts[verdict] > 1]}"
        for verdict in words
        if counts[verdict]
    ]
    return ", ".join(said) or "no claims"


def tally_of(runs: Sequence[PastRun], of: int) -> str:
    """How many of several experiments were run, and what came of their claims.

    Example:
        >>> tally_of([PastRun(Path("toy"), [Claim("", 1, 0, 2)], "smoke", None)], of=3)
        '1 of 3 experiments were run. Of 1 claims 1 holds.'
    """
    claims = [claim for run in runs for claim in run.claims]
    said = f"{len(runs)} of {of} experiments were run."
    return f"{said} Of {len(claims)} claims {tally(claims)}." if claims else said


def smaller(png: bytes, width: int = WIDTH) -> bytes:
    """A PNG of at most so many pixels across and 128 colours; what is no image stays as it is."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(png)).convert("RGB")
    except OSError:
        return png
    if image.width > width:
        height = round(image.height * width / image.width)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.quantize(128).save(written, "png", optimize=True)
    return written.getvalue()

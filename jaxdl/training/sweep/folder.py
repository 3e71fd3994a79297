"""What a sweep keeps in a folder, so that a restart computes only what is missing."""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.files import differences, partial_folder, publish
from jaxdl.notices import notice

_IDENTITY = "sweep.json"


@dataclass(frozen=True)
class SweepFolder:
    """The finished calls of one sweep, one file each: the members' numbers and their metrics."""

    path: Path

    def save(self, group: int, members: np.ndarray, metrics: Sequence[np.ndarray]) -> None:
        """Write the metrics of a call. After a crash the file is whole or absent."""
        arrays: dict[str, Any] = {f"metric_{i}": values for i, values in enumerate(metrics)}
        content = io.BytesIO()
        np.savez(content, members=members, **arrays)
        # The name holds the content's digest: a file that was damaged is known before it is read.
        name = f"group{group}-members{members[0]}-{members[-1]}-{_digest(content.getvalue())}.npz"
        with partial_folder(self.path) as folder:
            (folder / name).write_bytes(content.getvalue())
            publish(folder / name, self.path / name)

    def load(self, group: int, into: Sequence[np.ndarray]) -> np.ndarray:
        """Fill the rows of `into`, one array per metric, and return which rows are filled.

        A damaged file is renamed to `damaged-...` with a warning, and its members are computed
        again.

        Raises:
            OSError: a file cannot be read now.
        """
        done = np.zeros(len(into[0]), bool)
        for file in sorted(self.path.glob(f"group{group}-members*.npz")):
            content = file.read_bytes()
            if not file.stem.endswith(f"-{_digest(content)}"):
                os.replace(file, file.with_name(f"damaged-{file.name}"))
                notice(
                    f"{file} is damaged: its {len(content)} bytes are not those written; it is "
                    f"kept as damaged-{file.name}, and its members are computed again",
                )
                continue
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                members = stored["members"]
                for i, column in enumerate(into):
                    # A dtype that NumPy does not know, such as bfloat16, is stored as bytes.
                    column[members] = stored[f"metric_{i}"].view(column.dtype)
            done[members] = True
        return done


def open_folder(path: Path, identity: Mapping[str, Any]) -> SweepFolder:
    """The folder of the sweep with this identity, made if there is none.

    Raises:
        OSError: the folder cannot be read now.
        ValueError: the folder holds another sweep, or does not say which.
    """
    file = path / _IDENTITY
    if file.exists():
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"folder must hold what its sweep is, got {file} that is damaged ({error}); "
                "pass another folder"
            ) from None
        # What JSON makes of the identity: tuples become lists.
        differs = differences(stored, json.loads(json.dumps(identity)))
        if differs:
            raise ValueError(
                f"folder must hold this sweep or none, got {path} with another: "
                f"{'; '.join(differs)}; pass another folder"
            )
    elif any(path.glob("group*-members*.npz")):
        raise ValueError(
            f"folder must hold this sweep or none, got {path} with results but no {_IDENTITY}; "
            "pass another folder"
        )
    else:
        with partial_folder(path) as folder:
            (folder / _IDENTITY).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
            publish(folder / _IDENTITY, file)
    return SweepFolder(path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

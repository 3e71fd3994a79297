"""What a sweep keeps in a folder, so that a restart computes only what is missing."""

import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.files import differences, partial_folder, publish

_IDENTITY = "sweep.json"


@dataclass(frozen=True)
class SweepFolder:
    """The finished calls of one sweep, one file each: the members' numbers and their metrics."""

    path: Path

    def save(self, group: int, members: np.ndarray, metrics: Sequence[np.ndarray]) -> None:
        """Write the metrics of a call. After a crash the file is whole or absent."""
        arrays: dict[str, Any] = {f"metric_{i}": values for i, values in enumerate(metrics)}
        name = f"group{group}-members{members[0]}-{members[-1]}.npz"
        with partial_folder(self.path) as folder:
            np.savez(folder / name, members=members, **arrays)
            publish(folder / name, self.path / name)

    def load(self, group: int, into: Sequence[np.ndarray]) -> np.ndarray:
        """Fill the rows of `into`, one array per metric, and return which rows are filled.

        A file that cannot be read is named in a warning, and its members are computed again.
        """
        done = np.zeros(len(into[0]), bool)
        for file in sorted(self.path.glob(f"group{group}-members*.npz")):
            try:
                with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
                    members = stored["members"]
                    # A dtype that NumPy does not know, such as bfloat16, is stored as bytes.
                    columns = [
                        stored[f"metric_{i}"].view(column.dtype) for i, column in enumerate(into)
                    ]
            except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
                warnings.warn(
                    f"{file} cannot be read ({error}); its members are computed again",
                    stacklevel=2,
                )
                continue
            for column, values in zip(into, columns, strict=True):
                column[members] = values
            done[members] = True
        return done


def open_folder(path: Path, identity: Mapping[str, Any]) -> SweepFolder:
    """The folder of the sweep with this identity, made if there is none.

    Raises:
        ValueError: the folder holds another sweep.
    """
    file = path / _IDENTITY
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
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

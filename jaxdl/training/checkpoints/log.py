"""A log of JSON lines that grows by what is new, so that no save writes old lines again."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdl.files import partial_folder, publish
from jaxdl.notices import notice
from jaxdl.training.checkpoints.errors import DamagedError

_NAMES = ("history.jsonl", "history.copy.jsonl")


@dataclass(frozen=True)
class Position:
    """A place in the log: what stands before it does not change.

    Attributes:
        bytes: how many bytes stand before it.
        digest: their SHA-256.
    """

    bytes: int = 0
    digest: str = hashlib.sha256().hexdigest()


class Log:
    """Two copies of one file. Every checkpoint needs it, so one damaged byte must not end it.

    Each checkpoint holds the position that it reached. What stands behind the position of the
    newest is the rest of a killed save, and is overwritten.

    Example:
        >>> import tempfile
        >>> log = Log(Path(tempfile.mkdtemp()))
        >>> reached = log.write([{"loss": 0.5}])
        >>> log.keep()
        >>> log.read(reached)
        [{'loss': 0.5}]
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._size, self._hash = 0, hashlib.sha256()
        self._written = self._size, self._hash

    def write(self, lines: Iterable[Any]) -> Position:
        """Write lines behind the position that was kept, sync them, and return the one reached."""
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        hash_ = self._hash.copy()
        hash_.update(data)
        if data:
            for name in _NAMES:
                descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o644)
                with os.fdopen(descriptor, "r+b") as file:
                    file.truncate(self._size)
                    file.seek(self._size)
                    file.write(data)
                    file.flush()
                    os.fsync(descriptor)
        self._written = self._size + len(data), hash_
        return Position(self._written[0], hash_.hexdigest())

    def keep(self) -> None:
        """Write on behind the lines that were written last."""
        self._size, self._hash = self._written

    def read(self, position: Position) -> list[Any]:
        """The lines before a position, behind which the log is written on.

        A copy that is damaged or missing is made again from the other, with a warning.

        Raises:
            DamagedError: neither copy is whole.
            OSError: a copy cannot be read now.
        """
        whole, bad = b"", []
        for name in _NAMES if position.bytes else ():
            path = self._folder / name
            try:
                with path.open("rb") as file:
                    data = file.read(position.bytes)
            except FileNotFoundError:
                data = b""
            if hashlib.sha256(data).hexdigest() == position.digest:
                whole = data
            else:
                bad.append(path)
        if len(bad) == len(_NAMES):
            raise DamagedError(
                f"{bad[0]} and its copy {bad[1].name} are damaged: their first {position.bytes} "
                "bytes are not those written"
            )
        for path in bad:
            notice(f"{path} was damaged and is made again from its copy")
            with partial_folder(self._folder) as partial:
                (partial / path.name).write_bytes(whole)
                publish(partial / path.name, path)
        self._size, self._hash = len(whole), hashlib.sha256(whole)
        return [json.loads(line) for line in whole.decode().splitlines()]

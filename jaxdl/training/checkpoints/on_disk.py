"""One checkpoint on disk: its payload, written by orbax, and the manifest that vouches for it."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.training.checkpoints.packing import Bytes, Leaf, bytes_of, damaged

_FORMAT = 1
_MANIFEST = "manifest.json"
_PAYLOAD = "payload"
_ARRAY = "__array__"


class DamagedError(Exception):
    """A file of a checkpoint is missing or has changed."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint must hold.

    Attributes:
        step: the run's step.
        identity: the run's identity.
        tree: the leaves of the state.
        arrays: the arrays of `extra`.
        extra: the rest of `extra`, with `{"__array__": i}` in the place of array i.
        files: the SHA-256 of each file of the payload, by its path in the payload.
    """

    step: int
    identity: Mapping[str, Any]
    tree: Sequence[Leaf]
    arrays: Sequence[Leaf]
    extra: Any
    files: Mapping[str, str]


def write(folder: Path, manifest: Manifest, parts: Sequence[Bytes]) -> None:
    """Write payload and manifest into an empty folder, without fsync.

    Arguments:
        folder: an existing folder that nobody else reads yet.
        manifest: the manifest; this function fills in `files`.
        parts: the bytes of its leaves.

    Raises:
        Exception: an error of the disk or of orbax.
    """
    from etils import epath
    from orbax import checkpoint

    payload = folder / _PAYLOAD
    payload.mkdir()
    _handler().save(epath.Path(payload), args=checkpoint.args.PyTreeSave(_named(parts)))
    files = {
        path.relative_to(payload).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(payload.rglob("*"))
        if path.is_file()
    }
    text = to_text(dataclasses.replace(manifest, files=files))
    # The first line is the digest of the manifest itself.
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / _MANIFEST).write_text(f"{digest}\n{text}\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, checked against its own digest.

    Raises:
        DamagedError: it is missing or damaged; the message names the file.
        ValueError: a version of jaxdl with another format wrote it.
    """
    path = folder / _MANIFEST
    try:
        digest, text = path.read_text(encoding="utf-8").removesuffix("\n").split("\n", 1)
        whole = hashlib.sha256(text.encode()).hexdigest() == digest
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        raise DamagedError(f"{path} cannot be read ({error})") from error
    if not whole:
        raise DamagedError(f"{path} is damaged: its digest is another")
    try:
        return from_text(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def to_text(manifest: Manifest) -> str:
    """A manifest as one line of JSON."""
    return json.dumps(dataclasses.asdict(manifest) | {"format": _FORMAT})


def from_text(text: str) -> Manifest:
    """The manifest that `to_text` wrote.

    Raises:
        ValueError: a version of jaxdl with another format wrote it.
    """
    body = json.loads(text)
    if body.pop("format") != _FORMAT:
        raise ValueError(
            f"a checkpoint must be of format {_FORMAT}, got another; "
            "read it with the version of jaxdl that wrote it"
        )
    for kind in ("tree", "arrays"):
        body[kind] = [Leaf(**leaf | {"shape": tuple(leaf["shape"])}) for leaf in body[kind]]
    return Manifest(**body)


def read_parts(folder: Path, manifest: Manifest) -> list[Bytes]:
    """The bytes of a checkpoint. Every file and every leaf is checked against its digest.

    Raises:
        DamagedError: something is missing or changed; the message names the file or the leaf.
    """
    from etils import epath
    from orbax import checkpoint

    payload = folder / _PAYLOAD
    for name, digest in manifest.files.items():
        path = payload / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise DamagedError(f"{path} is missing") from None
        except OSError as error:
            raise DamagedError(f"{path} cannot be read ({error})") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise DamagedError(f"{path} is damaged: its {len(content)} bytes are not those written")
    leaves = [*manifest.tree, *manifest.arrays]
    names = _named(sorted({leaf.part for leaf in leaves if leaf.start < leaf.stop}))
    as_numpy = {name: checkpoint.RestoreArgs(restore_type=np.ndarray) for name in names}
    try:
        restored = _handler().restore(
            epath.Path(payload), args=checkpoint.args.PyTreeRestore(restore_args=as_numpy)
        )
    except Exception as error:  # orbax and tensorstore raise many kinds
        raise DamagedError(f"{payload} cannot be read ({error})") from error
    parts = [restored[name] for name in names]
    changed = damaged(leaves, parts)
    if changed:
        raise DamagedError(f"{payload} holds other values than were saved in {', '.join(changed)}")
    return parts


def split_extra(extra: Any) -> tuple[Any, list[np.ndarray]]:
    """Split `extra` into JSON, with a number in place of each array, and the arrays.

    Raises:
        TypeError: a value is neither an array nor JSON.
    """
    arrays: list[np.ndarray] = []

    def encode(value: Any, where: str) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            # Kind "V" is bfloat16 and the like, or a record. Only a record has names.
            if value.dtype.kind not in "biufcV" or value.dtype.names:
                raise TypeError(
                    f"arrays in {where} must be numeric, got dtype {value.dtype}; convert it"
                )
            arrays.append(np.asarray(value))
            return {_ARRAY: len(arrays) - 1}
        if isinstance(value, Mapping):
            if not all(isinstance(name, str) for name in value) or _ARRAY in value:
                raise TypeError(
                    f"the keys of {where} must be strings other than {_ARRAY!r}, "
                    f"got {list(value)}; rename them"
                )
            return {name: encode(item, f"{where}[{name!r}]") for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(
            f"extra must hold NumPy arrays and what JSON knows, got {type(value).__name__} "
            f"at {where}; convert it"
        )

    return encode(extra, "extra"), arrays


def arrays_of(manifest: Manifest, parts: Sequence[Bytes]) -> list[np.ndarray]:
    """The arrays of `extra` as writable copies, in the order of their numbers."""
    return [
        bytes_of(leaf, parts).view(np.dtype(leaf.dtype)).reshape(leaf.shape).copy()
        for leaf in manifest.arrays
    ]


def join_extra(encoded: Any, arrays: Sequence[np.ndarray]) -> Any:
    """Undo `split_extra`; a tuple comes back as a list."""
    if isinstance(encoded, dict):
        if _ARRAY in encoded:
            return arrays[encoded[_ARRAY]]
        return {name: join_extra(item, arrays) for name, item in encoded.items()}
    if isinstance(encoded, list):
        return [join_extra(item, arrays) for item in encoded]
    return encoded


def _named(parts: Sequence[Any]) -> dict[str, Any]:
    return {f"part_{index}": part for index, part in enumerate(parts)}


@functools.cache
def _handler() -> Any:
    """Orbax's handler alone: a fifth of the time of its checkpointers.

    Orbax need not commit, because `publish` renames a finished folder. OCDBT merges small files,
    and `pack` leaves none. Trained weights hardly compress.
    """
    from orbax import checkpoint

    return checkpoint.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False)

"""One checkpoint on disk: orbax checkpoints, and the manifest that vouches for them.

    00000007-step-900/manifest.json     step, identity, and a digest of every leaf and file
    00000007-step-900/state/            an ordinary orbax checkpoint
    00000007-step-900/observers/        another, where observers remember something

Plain orbax reads a part without this library:
`orbax.checkpoint.StandardCheckpointer().restore(folder / "state")`.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.training.checkpoints.errors import DamagedError
from jaxdl.training.checkpoints.log import Position
from jaxdl.training.checkpoints.packing import Bytes, Leaf, bytes_of, digest

_FORMAT = 2
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint must hold.

    Attributes:
        step: the run's step.
        identity: the run's identity.
        leaves: every leaf by its name, which begins with its part: `state/params/dense_0/kernel`.
        extra: what else the run needs, as JSON.
        log: where the log stood.
        files: the SHA-256 of each file of the parts, by its path.
    """

    step: int
    identity: Mapping[str, Any]
    leaves: Mapping[str, Leaf]
    extra: Any
    log: Position
    files: Mapping[str, str]


def write(folder: Path, manifest: Manifest, parts: Mapping[str, Any]) -> None:
    """Write parts and manifest into an empty folder, without fsync.

    Arguments:
        folder: an existing folder that nobody else reads yet.
        manifest: the manifest; this function fills in `files`.
        parts: packed trees by their names. A part without a leaf is left out.

    Raises:
        Exception: an error of the disk or of orbax.
    """
    from etils import epath
    from orbax import checkpoint

    for name, tree in parts.items():
        if jax.tree.leaves(tree):
            place = epath.Path(folder / name)
            place.mkdir()
            _handler().save(place, args=checkpoint.args.PyTreeSave(tree))
            _handler().finalize(place)
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = to_text(dataclasses.replace(manifest, files=files))
    # The first line is the digest of the manifest itself.
    whole = hashlib.sha256(text.encode()).hexdigest()
    (folder / _MANIFEST).write_text(f"{whole}\n{text}\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, checked against its own digest.

    Raises:
        DamagedError: it is missing or damaged; the message names the file.
        OSError: it cannot be read now.
        ValueError: a version of jaxdl with another format wrote it.
    """
    path = folder / _MANIFEST
    content = _read(folder, _MANIFEST)
    try:
        whole, text = content.decode().removesuffix("\n").split("\n", 1)
    except ValueError:  # no text, or a single line
        whole, text = "", ""
    if hashlib.sha256(text.encode()).hexdigest() != whole:
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
    found = body.pop("format")
    if found != _FORMAT:
        raise ValueError(
            f"a checkpoint must be of format {_FORMAT}, got one of format {found}; read it with "
            "the version of jaxdl that wrote it, or start the run in another folder"
        )
    leaves = {
        name: Leaf(leaf["dtype"], tuple(leaf["shape"]), leaf["digest"])
        for name, leaf in body.pop("leaves").items()
    }
    return Manifest(leaves=leaves, log=Position(**body.pop("log")), **body)


def read_leaves(folder: Path, manifest: Manifest) -> dict[str, Bytes]:
    """The bytes of every leaf that has elements, by name, in the manifest's order.

    Raises:
        DamagedError, Exception: as in `read_parts`.
    """
    found = _named(read_parts(folder, manifest))
    return {
        name: bytes_of(found[name]) for name, leaf in manifest.leaves.items() if 0 not in leaf.shape
    }


def read_parts(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The trees of a checkpoint by name, as `pack` made them.

    Every file and every leaf is checked against its digest.

    Raises:
        DamagedError: something is missing or changed; the message names the file or the leaf.
        Exception: it cannot be read now, for another reason.
    """
    from etils import epath

    for name, expected in manifest.files.items():
        content = _read(folder, name)
        if hashlib.sha256(content).hexdigest() != expected:
            raise DamagedError(
                f"{folder / name} is damaged: its {len(content)} bytes are not those written"
            )
    restored = {
        part: _handler().restore(epath.Path(folder / part))
        for part in sorted({name.split("/")[0] for name in manifest.files})
    }
    found = _named(restored)
    wanted = {name: leaf for name, leaf in manifest.leaves.items() if 0 not in leaf.shape}
    changed = [
        name
        for name, leaf in wanted.items()
        if name not in found or digest(found[name]) != leaf.digest
    ]
    if changed:
        raise DamagedError(f"{folder} holds other values than were saved in {', '.join(changed)}")
    return restored


def _named(parts: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(parts)
    }


def _read(folder: Path, name: str) -> bytes:
    """A file's content. It is damaged if it is missing from a checkpoint that can be listed."""
    try:
        return (folder / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        os.listdir(folder)  # raises if it is the folder that is not there now
        raise DamagedError(f"{folder / name} is missing") from None


@functools.cache
def _handler() -> Any:
    """Orbax's handler alone: a fifth of the time of its checkpointers.

    Orbax need not commit, because `publish` renames a finished folder. Trained weights hardly
    compress.
    """
    from orbax import checkpoint

    return checkpoint.PyTreeCheckpointHandler(use_compression=False)

"""The digests of the published files, and whether a file on disk is one of them."""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Published:
    """A file of a release.

    Arguments:
        filename: the published name.
        url: the address to fetch it from.
        size: the size in bytes.
        sha256: the digest of the file as published.
        content_sha256: the digest of a `.gz` file's content; it survives another compression.
    """

    filename: str
    url: str
    size: int
    sha256: str
    content_sha256: str | None = None


def sha256(path: Path, *, decompress: bool = False) -> str:
    """The hex digest of a file, or of its gunzipped content, read once in small blocks."""
    digest = hashlib.sha256()
    with gzip.open(path) if decompress else path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def compare(
    files: Mapping[str, Path], resources: Iterable[Published]
) -> tuple[list[str], list[str]]:
    """The names of the files that differ from the published ones, and of those without a digest.

    If both lists are empty, every file is a published one, perhaps decompressed or compressed
    again.
    """
    by_name = {resource.filename: resource for resource in resources}
    different, unknown = [], []
    for name, path in files.items():
        verdict = _is_published(path, by_name.get(name) or by_name.get(f"{name}.gz"))
        if verdict is None:
            unknown.append(name)
        elif not verdict:
            different.append(name)
    return different, unknown


def _is_published(path: Path, resource: Published | None) -> bool | None:
    if resource is None:
        return None
    digest = sha256(path)
    if digest in (resource.sha256, resource.content_sha256):
        return True
    if resource.content_sha256 is None:
        # Under another name it may be the content, of which no digest is known.
        return False if path.name == resource.filename else None
    try:
        return sha256(path, decompress=True) == resource.content_sha256
    except (OSError, EOFError, zlib.error):
        return False

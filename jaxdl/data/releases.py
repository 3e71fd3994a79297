"""A set that comes as files: its copies, its raw files, its download, and what is said of them."""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from jaxdl.data.builders import find_prepared, read_notice, read_prepared, write_prepared
from jaxdl.data.cache import fingerprint, read_cache, write_cache
from jaxdl.data.catalog import FileSet
from jaxdl.data.download import download
from jaxdl.data.integrity import check_dataset
from jaxdl.data.published import compare
from jaxdl.data.types import DataError, Dataset

logger = logging.getLogger("jaxdl.data")


def load_files(files: FileSet, *, data_dir: Path, raw_dir: Path | None) -> Dataset:
    """`load` for the set that `files` describes."""
    dataset, notice = _find(files, data_dir, raw_dir)
    if notice:
        logger.warning("%s", notice)
    return dataset


def prepare_files(files: FileSet, *, data_dir: Path, raw_dir: Path | None) -> Path:
    """`prepare` for the set that `files` describes."""
    if raw_dir is not None:
        raw = files.locate(raw_dir)
    else:
        prepared = find_prepared(data_dir, files)
        if prepared is not None:
            return prepared
        raw = _locate_or_download(files, data_dir)
    dataset, _, notice = _read_raw(files, raw)
    if notice:
        logger.warning("%s", notice)
    return write_prepared(data_dir, files, dataset, notice=notice)


def _find(files: FileSet, data_dir: Path, raw_dir: Path | None) -> tuple[Dataset, str]:
    """The data set, and what its reader must be told."""
    decoded = data_dir / "decoded"
    if raw_dir is not None:
        raw = files.locate(raw_dir)
        # It has a folder of its own: the user's files must never pass for the published set.
        place = hashlib.sha256(os.fsencode(raw_dir.resolve())).hexdigest()[:16]
        copy, source = decoded / f"{files.name}-{place}", fingerprint(raw.values())
        return _cached(files, copy, source=source) or _decode(files, raw, copy, source)
    copy = decoded / files.name
    prepared = find_prepared(data_dir, files)
    if prepared is not None:
        # It may be newer than the decoded copy, and made from other files. Then it is the one to
        # use.
        source = fingerprint(path for path in prepared.iterdir() if path.is_file())
        cached = _cached(files, copy, source=source)
        if cached is None:
            dataset = read_prepared(prepared, files)
            notice = read_notice(prepared, files) or _other_numbers(files, dataset, prepared)
            _keep(copy, dataset, source=source, verified=False, notice=notice)
            cached = dataset, notice
        return cached
    # A copy of files that are not the published ones is as good as these files, as long as they
    # are there: they may have been mended since.
    system = _locate_in_system(files)
    there = None if system is None else fingerprint(system.values())
    cached = _cached(files, copy, source=there, or_verified=True)
    if cached is not None:
        return cached
    raw = system or _locate_or_download(files, data_dir)
    return _decode(files, raw, copy, fingerprint(raw.values()))


def _cached(
    files: FileSet, copy: Path, *, source: str | None, or_verified: bool = False
) -> tuple[Dataset, str] | None:
    found = read_cache(copy, source=source, or_verified=or_verified)
    if found is not None and found[0].name != files.name:
        logger.warning("%s holds %s: it is decoded again", copy, found[0].name)
        return None
    return found


def _decode(
    files: FileSet, raw: Mapping[str, Path], copy: Path, source: str
) -> tuple[Dataset, str]:
    dataset, verified, notice = _read_raw(files, raw)
    _keep(copy, dataset, source=source, verified=verified, notice=notice)
    return dataset, notice


def _read_raw(files: FileSet, raw: Mapping[str, Path]) -> tuple[Dataset, bool, str]:
    """The data set, whether its files are the published ones, and what its reader must be told."""
    train, test = files.read(raw, len(files.classes), files.shape)
    folder = next(iter(raw.values())).parent
    dataset = Dataset(files.name, train=train, validation=None, test=test, classes=files.classes)
    check_dataset(dataset, os.fspath(folder))
    different, unknown = compare(raw, files.published)
    notice = _other_numbers(files, dataset, folder)
    if different and not notice:
        notice = (
            f"{files.name}: the files in {folder} must have the published digests, got others for "
            f"{', '.join(different)}; they are used as they are, fetch them again for the "
            "published set"
        )
    verified = not (different or unknown or notice)
    verdict = "verified" if verified else "accepted, but their digests are not the published ones"
    if unknown:
        verdict = "accepted, but no digest is known of " + ", ".join(unknown)
    logger.info("%s: raw files in %s: %s", files.name, folder, verdict)
    return dataset, verified, notice


def _other_numbers(files: FileSet, dataset: Dataset, origin: Path) -> str:
    """A warning if the splits are not as large as published; empty if they are."""
    test = 0 if dataset.test is None else len(dataset.test)
    found = len(dataset.train), test
    if found == files.examples:
        return ""
    return (
        f"{files.name}: the published set has {files.examples[0]} training and "
        f"{files.examples[1]} test examples, got {found[0]} and {found[1]} from {origin}; they are "
        "used as they are, and what is measured on them is not comparable"
    )


def _keep(copy: Path, dataset: Dataset, *, source: str, verified: bool, notice: str) -> None:
    try:
        write_cache(copy, dataset, source=source, verified=verified, notice=notice)
    except OSError as error:
        # The data are good; only the next load is slower.
        logger.warning("the decoded copy cannot be kept in %s: %s", copy, error)


def _locate_or_download(files: FileSet, data_dir: Path) -> dict[str, Path]:
    raw = _locate_in_system(files)
    if raw is None:
        downloads = data_dir / "downloads" / files.name
        download(files.published, downloads)
        raw = files.locate(downloads)
    return raw


def _locate_in_system(files: FileSet) -> dict[str, Path] | None:
    for folder in files.system_folders:
        try:
            return files.locate(folder)
        except DataError as error:
            if folder.is_dir():
                logger.info("%s is passed over: %s", folder, error)
    return None


def whereabouts(files: FileSet, data_dir: Path, raw_dir: Path | None) -> str | None:
    """Where the set is, in words; None if it must be downloaded."""
    if raw_dir is not None:
        try:
            return f"raw files in {next(iter(files.locate(raw_dir).values())).parent}"
        except DataError:
            pass
    prepared = find_prepared(data_dir, files)
    if prepared is not None:
        return f"prepared in {prepared}"
    if (data_dir / "decoded" / files.name).is_dir():
        return f"decoded in {data_dir / 'decoded' / files.name}"
    raw = _locate_in_system(files)
    return None if raw is None else f"raw files in {next(iter(raw.values())).parent}"

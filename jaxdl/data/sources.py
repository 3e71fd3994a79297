"""Find data sets: load one, list them, or prepare one."""

import hashlib
import importlib.util
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxdl.data.builders import find_prepared, read_prepared, write_prepared
from jaxdl.data.cache import fingerprint, read_cache, write_cache
from jaxdl.data.catalog import FILE_SETS, FileSet
from jaxdl.data.download import download
from jaxdl.data.embedded import EMBEDDED_SETS
from jaxdl.data.integrity import check_dataset
from jaxdl.data.published import are_published
from jaxdl.data.types import DataError, Dataset

logger = logging.getLogger("jaxdl.data")

Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class Available:
    """A line of `available`.

    Arguments:
        name: the name for `load`.
        kind: "embedded" (in another package's wheel) or "files".
        task: "classification" or "regression".
        examples: the number of published examples in all splits.
        shape: the shape of one input.
        found: where it was found, or how to get it.
        ready: whether `load` needs neither a download nor another package.
    """

    name: str
    kind: str
    task: str
    examples: int
    shape: tuple[int, ...]
    found: str
    ready: bool


def load(name: str, data_dir: Folder | None = None, raw_dir: Folder | None = None) -> Dataset:
    """Load a data set as published: the train split, and the test split if there is one.

    A set that comes as files is taken from the first of these: the decoded copy of an earlier load;
    a copy in `data_dir` that `prepare` or tensorflow-datasets (array_record) wrote; raw files of a
    system package; a download. With `raw_dir` only that folder is read. A decoded copy is kept in
    `data_dir`. It is used as long as the files keep their names, sizes and modification times.

    Arguments:
        name: a name that `available` lists.
        data_dir: the folder of prepared, decoded and downloaded files; default $JAXDL_DATA_DIR, or
            ~/.cache/jaxdl.
        raw_dir: a folder of the release's files: IDX, plain or .gz; CIFAR-10's archive, or its
            extracted folder.

    Raises:
        DataError: a file that is missing, damaged or not the one it should be.
        ImportError: an embedded set whose package is not installed.
        ValueError: an unknown name, or `raw_dir` for an embedded set.

    Example:
        >>> load("boston_housing").train.inputs.shape
        (506, 13)
    """
    for embedded in EMBEDDED_SETS:
        if embedded.name == name:
            if raw_dir is not None:
                raise ValueError(
                    f"raw_dir must be None for {name}, which {embedded.package} carries, "
                    f"got {raw_dir}; leave it out"
                )
            return check_dataset(embedded.read(), embedded.package)
    return load_files(_file_set(name), data_dir=_data_dir(data_dir), raw_dir=_folder(raw_dir))


def load_or_small(
    usual: str,
    name: str | None = None,
    *,
    data_dir: Folder | None = None,
    raw_dir: Folder | None = None,
) -> Dataset:
    """Load the named set; without a name the usual one where it is here, else `mnist_5k`.

    That `mnist_5k` takes the place of the usual set is logged as a warning.

    Arguments:
        usual: the set for a machine that has it without a download.
        name: the set that is asked for; None leaves the choice to this function.
        data_dir, raw_dir: as for `load`. `mnist_5k` is read from its package.

    Raises:
        DataError, ImportError: as for `load`.

    Example:
        >>> load_or_small("fashion_mnist", "mnist_5k").name
        'mnist_5k'
    """
    if name is None:
        ready = {entry.name: entry.ready for entry in available(data_dir, raw_dir)}
        if usual not in ready:
            raise ValueError(f"usual must be one of {', '.join(ready)}, got {usual!r}; name one")
        name = usual if ready[usual] else "mnist_5k"
        if name != usual:
            logger.warning("%s is not on this machine: mnist_5k takes its place", usual)
    return load(name, data_dir=data_dir, raw_dir=None if name == "mnist_5k" else raw_dir)


def available(data_dir: Folder | None = None, raw_dir: Folder | None = None) -> list[Available]:
    """List the data sets that `load` knows, and where each would come from.

    Arguments:
        data_dir: as for `load`.
        raw_dir: as for `load`. A set without files there is looked for elsewhere.

    Example:
        >>> [entry.name for entry in available()]
        ['mnist_5k', 'digits', 'mnist_1d', 'boston_housing', 'fashion_mnist', 'mnist', 'cifar10']
    """
    entries = [
        Available(
            name=embedded.name,
            kind="embedded",
            task=embedded.task,
            examples=embedded.examples,
            shape=embedded.shape,
            found=f"the package {embedded.package}"
            if importlib.util.find_spec(embedded.package)
            else 'to be installed: pip install "jaxdl[experiments]"',
            ready=importlib.util.find_spec(embedded.package) is not None,
        )
        for embedded in EMBEDDED_SETS
    ]
    for files in FILE_SETS:
        found = _whereabouts(files, _data_dir(data_dir), _folder(raw_dir))
        megabytes = sum(resource.size for resource in files.published) / 1e6
        entries.append(
            Available(
                name=files.name,
                kind="files",
                task="classification",
                examples=sum(files.examples),
                shape=files.shape,
                found=found or f"to be downloaded when loaded: {megabytes:.0f} MB",
                ready=found is not None,
            )
        )
    return entries


def prepare(name: str, data_dir: Folder | None = None, raw_dir: Folder | None = None) -> Path:
    """Write the tensorflow-datasets copy (array_record) of a set, without TensorFlow.

    Without `raw_dir`, an existing copy is left alone.

    Arguments:
        name: a set that comes as files.
        data_dir: the copy goes to data_dir/name/version; default as for `load`.
        raw_dir: a folder of the release's files; by default those of a system package, or a
            download.

    Raises:
        DataError: as for `load`.
        ValueError: an unknown or an embedded name.
    """
    return prepare_files(_file_set(name), data_dir=_data_dir(data_dir), raw_dir=_folder(raw_dir))


def load_files(files: FileSet, *, data_dir: Path, raw_dir: Path | None) -> Dataset:
    """`load` for the set that `files` describes."""
    decoded = data_dir / "decoded"
    if raw_dir is not None:
        raw = files.locate(raw_dir)
        # It has a folder of its own: the user's files must never pass for the published set.
        place = hashlib.sha256(os.fsencode(raw_dir.resolve())).hexdigest()[:16]
        copy, source = decoded / f"{files.name}-{place}", fingerprint(raw.values())
        return read_cache(copy, source=source) or _decode(files, raw, copy, source)
    copy = decoded / files.name
    prepared = find_prepared(data_dir, files)
    if prepared is not None:
        # It may be newer than the decoded copy, and made from other files. Then it is the one to
        # use.
        source = fingerprint(path for path in prepared.iterdir() if path.is_file())
        cached = read_cache(copy, source=source)
        if cached is None:
            cached = read_prepared(prepared, files)
            _keep(copy, cached, source=source, verified=False)
        return cached
    cached = read_cache(copy, source=None)
    if cached is not None:
        return cached
    raw = _locate_or_download(files, data_dir)
    return _decode(files, raw, copy, fingerprint(raw.values()))


def prepare_files(files: FileSet, *, data_dir: Path, raw_dir: Path | None) -> Path:
    """`prepare` for the set that `files` describes."""
    if raw_dir is not None:
        raw = files.locate(raw_dir)
    else:
        prepared = find_prepared(data_dir, files)
        if prepared is not None:
            return prepared
        raw = _locate_or_download(files, data_dir)
    dataset, _ = _read_raw(files, raw)
    return write_prepared(data_dir, files, dataset)


def _decode(files: FileSet, raw: Mapping[str, Path], copy: Path, source: str) -> Dataset:
    dataset, verified = _read_raw(files, raw)
    _keep(copy, dataset, source=source, verified=verified)
    return dataset


def _read_raw(files: FileSet, raw: Mapping[str, Path]) -> tuple[Dataset, bool]:
    train, test = files.read(raw, len(files.classes), files.shape)
    folder = os.fspath(next(iter(raw.values())).parent)
    verified = are_published(raw, files.published)
    verdict = "verified" if verified else "accepted, but their digests are not the published ones"
    logger.info("%s: raw files in %s: %s", files.name, folder, verdict)
    dataset = Dataset(files.name, train=train, validation=None, test=test, classes=files.classes)
    return check_dataset(dataset, folder), verified


def _keep(copy: Path, dataset: Dataset, *, source: str, verified: bool) -> None:
    try:
        write_cache(copy, dataset, source=source, verified=verified)
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


def _whereabouts(files: FileSet, data_dir: Path, raw_dir: Path | None) -> str | None:
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


def _file_set(name: str) -> FileSet:
    for files in FILE_SETS:
        if files.name == name:
            return files
    names = [entry.name for entry in FILE_SETS]
    if name in [embedded.name for embedded in EMBEDDED_SETS]:
        raise ValueError(
            f"prepare takes a set that comes as files ({', '.join(names)}), got {name!r}, which "
            "needs no preparation; load it"
        )
    names = [*[embedded.name for embedded in EMBEDDED_SETS], *names]
    raise ValueError(f"name must be one of {', '.join(names)}, got {name!r}; pass one of them")


def _data_dir(data_dir: Folder | None) -> Path:
    if data_dir is None:
        data_dir = os.environ.get("JAXDL_DATA_DIR") or "~/.cache/jaxdl"
    return Path(data_dir).expanduser()


def _folder(folder: Folder | None) -> Path | None:
    return None if folder is None else Path(folder).expanduser()

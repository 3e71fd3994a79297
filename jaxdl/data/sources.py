"""Find data sets: load one, list them, or prepare one."""

import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from jaxdl.data.catalog import FILE_SETS, FileSet
from jaxdl.data.embedded import EMBEDDED_SETS, read_embedded
from jaxdl.data.releases import load_files, prepare_files, whereabouts
from jaxdl.data.types import Dataset
from jaxdl.extras import install_command

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
    `data_dir`. It is used as long as the files keep their names, sizes and times of change; a copy
    of the published files is used without them.

    The arrays are read-only, so that a run on a CPU trains on them without a copy of its own; copy
    what you want to change. Files of your own in the release's format are read too. Each load of a
    set with other numbers of examples than published, or from a file whose published digest is
    known and differs, says so in a warning of the logger `jaxdl.data`.

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
            return _read_only(read_embedded(embedded))
    files = load_files(_file_set(name), data_dir=_data_dir(data_dir), raw_dir=_folder(raw_dir))
    return _read_only(files)


def _read_only(dataset: Dataset) -> Dataset:
    """The data set, of whose arrays no part can be written to, nor the memory that they view."""
    for leaf in jax.tree.leaves((dataset.train, dataset.test)):
        while isinstance(leaf, np.ndarray):
            leaf.flags.writeable = False
            leaf = leaf.base
    return dataset


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
            else f"to be installed: {install_command(embedded.package)}",
            ready=importlib.util.find_spec(embedded.package) is not None,
        )
        for embedded in EMBEDDED_SETS
    ]
    for files in FILE_SETS:
        found = whereabouts(files, _data_dir(data_dir), _folder(raw_dir))
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
    return _expand("data_dir", data_dir)


def _folder(folder: Folder | None) -> Path | None:
    return None if folder is None else _expand("raw_dir", folder)


def _expand(name: str, folder: Folder) -> Path:
    """The folder, with the home folder for a leading ~."""
    given = os.fspath(folder)
    if not given:
        raise ValueError(f"{name} must name a folder, got an empty one; leave it out, or pass '.'")
    user = given.split(os.sep)[0]
    unknown = os.path.expanduser(user) == user or (user == "~" and os.environ.get("HOME") == "")
    if user.startswith("~") and unknown:
        raise ValueError(
            f"{name} must name a folder, got {given} where the home folder {user} is not known "
            f"(HOME is {os.environ.get('HOME', 'not set')!r}); set HOME"
            f"{' or JAXDL_DATA_DIR' * (name == 'data_dir')}, or pass a whole path as {name}"
        )
    return Path(given).expanduser()

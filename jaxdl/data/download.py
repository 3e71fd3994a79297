"""Download a release's files with tensorflow-datasets' download manager."""

import contextlib
import logging
import socket
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxdl.data.published import Published, sha256
from jaxdl.data.types import DataError
from jaxdl.files import partial_folder, publish

logger = logging.getLogger("jaxdl.data")

_CONNECT_SECONDS = 10.0


def download(resources: Sequence[Published], folder: Path) -> None:
    """Download every file to `folder` under its published name, and check its size and sha256.

    An existing file is hashed again, and fetched again if it differs. A file gets its name only
    when it is whole, so a broken download is never mistaken for it.

    Arguments:
        resources: the files of a release.
        folder: where they go.

    Raises:
        DataError: a file cannot be fetched, is not the published one, or cannot be written.
    """
    wanted = [resource for resource in resources if not _is_there(resource, folder)]
    if not wanted:
        return
    megabytes = sum(resource.size for resource in wanted) / 1e6
    names = ", ".join(resource.filename for resource in wanted)
    host = urllib.parse.urlsplit(wanted[0].url).netloc
    print(f"Downloading {names} ({megabytes:.1f} MB) from {host} to {folder}", file=sys.stderr)
    try:
        with partial_folder(folder) as partial, progress_bars():
            for resource in wanted:
                publish(_fetch(resource, partial), folder / resource.filename)
    except OSError as error:
        raise DataError(
            f"{folder}: the folder must be one that can be written, got {error}; pass another "
            "data_dir, or set JAXDL_DATA_DIR"
        ) from error


@contextlib.contextmanager
def progress_bars() -> Iterator[None]:
    """Show tensorflow-datasets' progress bars on a terminal only."""
    from tensorflow_datasets.core.utils import tqdm_utils

    before = tqdm_utils._active  # there is no public way to ask
    tqdm_utils.display_progress_bar(before and sys.stderr.isatty())
    try:
        yield
    finally:
        tqdm_utils.display_progress_bar(before)


def _is_there(resource: Published, folder: Path) -> bool:
    path = folder / resource.filename
    if not path.is_file():
        return False
    if sha256(path) == resource.sha256:
        return True
    logger.warning("%s is not the published file: it is fetched again", path)
    return False


def _fetch(resource: Published, partial: Path) -> Path:
    import tensorflow_datasets as tfds

    url_info = tfds.core.download.checksums.UrlInfo(
        size=tfds.core.utils.Size(resource.size),
        checksum=resource.sha256,
        filename=resource.filename,
    )
    try:
        _check_reachable(resource.url)
        manager = tfds.download.DownloadManager(
            download_dir=partial,
            url_infos={resource.url: url_info},
            force_checksums_validation=True,
        )
        path = Path(manager.download(resource.url))
    except (
        tfds.download.DownloadError,
        tfds.core.download.download_manager.NonMatchingChecksumError,
        OSError,  # a network error or a full disk
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{resource.url}: the download must give the published {resource.size} bytes "
            f"(sha256 {resource.sha256[:12]}...), got: {reason}; try again later, or fetch "
            f"{resource.filename} by other means and pass its folder as raw_dir, or once to "
            "`jaxdl data prepare NAME --raw-dir FOLDER`"
        ) from error
    return path


def _check_reachable(url: str) -> None:
    """Fail in seconds if there is no network; the manager would retry for minutes."""
    from urllib.request import getproxies  # it loads much, and only a download needs it

    parts = urllib.parse.urlsplit(url)
    if parts.hostname is None or getproxies():
        return  # a proxy makes the connection, and only it knows whether it can
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()

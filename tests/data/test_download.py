"""Downloads from a local server: whole and verified, or refused with nothing left behind."""

import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import logging
import threading

import pytest

from jaxdl.data import DataError
from jaxdl.data.catalog import CIFAR10, FASHION_MNIST, FILE_SETS, MNIST
from jaxdl.data.download import download
from jaxdl.data.published import Published
from jaxdl.data.releases import load_files

pytest.importorskip("tensorflow_datasets")


class Server:
    """Serves `files`; a name in `broken` breaks off half-way, with the full length announced."""

    def __init__(self):
        self.files = {}
        self.broken = set()
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                outer.requests.append(name)
                if name not in outer.files:
                    self.send_error(404)
                    return
                content = outer.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if name in outer.broken else content)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def publish(self, name, content):
        """Serve a file, and return its description with the right size and digest."""
        self.files[name] = content
        digest = hashlib.sha256(content).hexdigest()
        return Published(name, f"{self.url}/{name}", len(content), digest)


@contextlib.contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        thread.join()
        server.server.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture
def resource(server):
    return server.publish("values.gz", gzip.compress(bytes(range(256)) * 100))


def test_a_file_arrives_under_its_published_name(server, resource, tmp_path, capsys):
    download([resource], tmp_path / "new")
    (path,) = (tmp_path / "new").iterdir()
    assert path.name == "values.gz"
    assert path.read_bytes() == server.files["values.gz"]
    # The notice says what and how large, where programs' output does not go.
    out, err = capsys.readouterr()
    assert out == ""
    assert "Downloading values.gz (0.0 MB) from 127.0.0.1" in err


def test_a_file_that_is_there_is_not_fetched_again(server, resource, tmp_path, capsys):
    download([resource], tmp_path)
    download([resource], tmp_path)
    assert server.requests == ["values.gz"]
    assert capsys.readouterr().err.count("Downloading") == 1


def test_a_file_that_was_damaged_since_is_fetched_again(server, resource, tmp_path):
    download([resource], tmp_path)
    path = tmp_path / "values.gz"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    download([resource], tmp_path)
    assert path.read_bytes() == server.files["values.gz"]


def wrong_checksum(server, resource):
    server.files[resource.filename] = b"x" * resource.size


def wrong_size(server, resource):
    server.files[resource.filename] += b"x"


def truncated(server, resource):
    server.broken.add(resource.filename)


def not_found(server, resource):
    del server.files[resource.filename]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (wrong_checksum, "wrong checksum"),
        (wrong_size, "wrong checksum"),
        (truncated, "IncompleteRead"),
        (not_found, "HTTP code: 404"),
    ],
)
def test_a_failure_names_the_url_and_the_fix_and_leaves_nothing(
    server, resource, tmp_path, fault, reason
):
    content = server.files["values.gz"]
    fault(server, resource)
    with pytest.raises(DataError, match=f"{resource.url}.*{reason}.*pass its folder as raw_dir"):
        download([resource], tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.files["values.gz"] = content
    server.broken.clear()
    download([resource], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["values.gz"]
    assert (tmp_path / "values.gz").read_bytes() == content


def test_files_fetched_before_a_failure_are_kept(server, resource, tmp_path):
    second = server.publish("second.gz", b"2" * 100)
    not_found(server, second)
    with pytest.raises(DataError, match=r"second\.gz"):
        download([resource, second], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["values.gz"]
    server.publish("second.gz", b"2" * 100)
    download([resource, second], tmp_path)
    assert server.requests.count("values.gz") == 1


def test_no_server_is_found_out_at_once(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        resource = server.publish("values.gz", b"1")
    with pytest.raises(DataError, match=f"{resource.url}.*refused.*pass its folder as raw_dir"):
        download([resource], tmp_path)


def test_a_folder_that_cannot_be_written_is_named(resource, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file/data: the folder must be .* set JAXDL_DATA_DIR"):
        download([resource], tmp_path / "file" / "data")


@pytest.fixture
def published_fashion(server, fashion_arrays, formats):
    """Fashion-MNIST that only the server has."""
    resources = tuple(
        server.publish(f"{name}.gz", gzip.compress(formats.idx(values)))
        for name, values in fashion_arrays.items()
    )
    return dataclasses.replace(
        FASHION_MNIST, published=resources, system_folders=(), examples=(30, 10)
    )


def test_load_downloads_once(server, published_fashion, tmp_path, check_fashion):
    for _ in range(2):
        check_fashion(load_files(published_fashion, data_dir=tmp_path, raw_dir=None))
    assert len(server.requests) == 4


def test_an_incomplete_system_package_is_passed_over(
    published_fashion, fashion_raw, tmp_path, check_fashion, caplog
):
    (fashion_raw / "t10k-labels-idx1-ubyte").unlink()
    files = dataclasses.replace(published_fashion, system_folders=(fashion_raw,))
    with caplog.at_level(logging.INFO, "jaxdl.data"):
        check_fashion(load_files(files, data_dir=tmp_path / "data", raw_dir=None))
    assert f"{fashion_raw} is passed over" in caplog.text


def test_load_after_a_broken_download_is_whole(server, published_fashion, tmp_path, check_fashion):
    server.broken.add("t10k-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="t10k-images"):
        load_files(published_fashion, data_dir=tmp_path, raw_dir=None)
    server.broken.clear()
    check_fashion(load_files(published_fashion, data_dir=tmp_path, raw_dir=None))


def test_the_catalog_names_the_files_that_tensorflow_datasets_knows():
    from tensorflow_datasets.core.download import checksums
    from tensorflow_datasets.core.utils import resource_utils

    folder = resource_utils.tfds_path() / "url_checksums"
    for files in FILE_SETS:
        known = checksums.load_url_infos(folder / f"{files.name}.txt")
        ours = {r.url: (r.size, r.sha256, r.filename) for r in files.published}
        assert ours == {
            url: (int(info.size), info.checksum, info.filename) for url, info in known.items()
        }


@pytest.mark.parametrize(("files", "count"), [(FASHION_MNIST, 4), (MNIST, 4), (CIFAR10, 1)])
def test_every_published_file_is_one_that_the_reader_finds(tmp_path, files, count):
    for resource in files.published:
        (tmp_path / resource.filename).write_bytes(b"")
    assert len(files.locate(tmp_path)) == count

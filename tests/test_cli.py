"""The command line: what it prints, where, and with which exit status."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdl
from jaxdl.cli import main


@pytest.fixture
def raw_dir(tmp_path):
    """Three images and a label each, as IDX files."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for prefix in ("train", "t10k"):
        images = np.arange(3 * 784, dtype=np.uint32).astype(np.uint8).tobytes()
        sizes = b"".join(size.to_bytes(4, "big") for size in (3, 28, 28))
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + images)
        labels = (3).to_bytes(4, "big") + bytes([0, 5, 9])
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + labels)
    return folder


def test_list_names_every_set_and_where_it_is(tmp_path, capsys):
    assert main(["data", "list", "--data-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for text in ("mnist_5k", "boston_housing", "cifar10", "70,000", "32 x 32 x 3", "170 MB"):
        assert text in out


def test_prepare_prints_the_folder_and_notes_what_was_read(raw_dir, tmp_path, capsys):
    data_dir = tmp_path / "data"
    arguments = ["data", "prepare", "mnist", "--raw-dir", str(raw_dir), "--data-dir", str(data_dir)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == f"{data_dir / 'mnist' / '3.0.1'}\n"
    assert f"{raw_dir}: accepted, but" in err
    assert main(["data", "list", "--data-dir", str(data_dir)]) == 0
    assert "prepared in" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mnist", "digits", "imagenet"])
def test_an_error_is_one_line_on_standard_error(name, tmp_path, capsys):
    arguments = ["data", "prepare", name, "--raw-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxdl: error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [[], ["data"], ["data", "prepare"], ["data", "list", "--colour"], ["train"]]
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: jaxdl" in capsys.readouterr().err


def test_without_a_command_it_shows_the_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "find and prepare data sets" in err


def test_the_version_is_told_where_jax_cannot_be_imported(tmp_path):
    (tmp_path / "jax.py").write_text("raise ImportError('jax and jaxlib do not fit')\n")
    path = os.pathsep.join([str(tmp_path), str(Path(jaxdl.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "jaxdl", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.stdout.startswith(f"jaxdl {jaxdl.__version__}, jax {jax.__version__}, jaxlib ")
    assert f", Python {platform.python_version()}, {platform.system()} " in done.stdout
    assert done.stdout.count("\n") == 1


def test_the_version_names_the_backends_that_are_installed(tmp_path, monkeypatch, capsys):
    """JAX finds a plugin by its entry point, and a TPU's library by its package."""
    for name, more in (("jax_cuda_plugin", "[jax_plugins]\nxla_cuda = gpu\n"), ("libtpu", "")):
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(more)
    monkeypatch.syspath_prepend(tmp_path)
    others = sorted(each.name for each in metadata.entry_points(group="jax_plugins"))
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(
        f"backends here: {', '.join(['cpu', *others, 'tpu'])}\n"
    )
    assert "xla_cuda" in others


def test_a_program_that_reads_the_output_sees_no_progress_bars(raw_dir, tmp_path):
    command = "import sys; from jaxdl.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["data", "prepare", "mnist", "--raw-dir", raw_dir, "--data-dir", tmp_path / "data"]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.count("\n") == 1
    assert "it/s" not in done.stderr
    assert "accepted, but" in done.stderr

"""What is published is there, whole, whatever kills the process that replaces it."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdl.files import partial_folder, publish, remove_leftovers, restore

# Kills itself before its n-th rename; argv: the folder, n.
REPLACE = """
import os, signal, sys
from pathlib import Path
from jaxdl.files import partial_folder, publish

folder, last = Path(sys.argv[1]), int(sys.argv[2])
seen = 0

def watch(event, arguments):
    global seen
    if event == "os.rename":
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

with partial_folder(folder) as partial:
    (partial / "made").mkdir()
    (partial / "made" / "file").write_text("new")
    sys.addaudithook(watch)
    publish(partial / "made", folder / "copy")
print(seen)
"""


def test_publish_replaces_a_file_and_a_folder(tmp_path):
    for content in (b"1", b"2"):
        with partial_folder(tmp_path) as partial:
            (partial / "file").write_bytes(content)
            (partial / "folder" / "in").mkdir(parents=True)
            (partial / "folder" / "in" / "file").write_bytes(content)
            publish(partial / "file", tmp_path / "file")
            publish(partial / "folder", tmp_path / "folder")
        assert (tmp_path / "file").read_bytes() == content
        assert (tmp_path / "folder" / "in" / "file").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "file").write_text("old")
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def replace_and_kill(folder, moment):
    return subprocess.run(
        [sys.executable, "-c", REPLACE, folder, str(moment)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("moment", "left"), [(1, "old"), (2, "old"), (3, "new")])
@pytest.mark.parametrize("look", [restore, remove_leftovers])
def test_a_killed_writer_leaves_the_old_folder_or_the_new_one(folder, moment, left, look):
    done = replace_and_kill(folder, moment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    # The moment that this is about: between the two renames no folder has the name.
    assert (folder / "copy").exists() is (moment != 2)
    look(folder)
    assert (folder / "copy" / "file").read_text() == left
    remove_leftovers(folder)
    assert names(folder) == ["copy"]


def test_there_are_no_other_renames(folder):
    done = replace_and_kill(folder, 4)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert (folder / "copy" / "file").read_text() == "new"
    assert names(folder) == ["copy"]


def test_a_folder_that_stands_aside_is_kept_however_old_it_is(folder, monkeypatch):
    replace_and_kill(folder, 2)
    # As in a folder that this process may not write to.
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError("mine")))
    remove_leftovers(folder)
    monkeypatch.undo()
    restore(folder)
    assert (folder / "copy" / "file").read_text() == "old"


def replace_anew(folder):
    with partial_folder(folder) as partial:
        (partial / "made").mkdir()
        (partial / "made" / "file").write_text("new")
        publish(partial / "made", folder / "copy")


def between_the_renames(monkeypatch, action):
    """Run `action` once, after the first rename of `publish`."""
    rename, done = os.replace, []

    def replace(source, destination):
        rename(source, destination)
        if not done:
            done.append(True)
            action()

    monkeypatch.setattr(os, "replace", replace)


def test_a_reader_that_puts_the_old_folder_back_loses_nothing(folder, monkeypatch):
    between_the_renames(monkeypatch, lambda: restore(folder))
    replace_anew(folder)
    assert (folder / "copy" / "file").read_text() == "new"
    assert names(folder) == ["copy"]


def test_a_writer_that_was_faster_keeps_its_folder(folder, monkeypatch):
    def publish_another():
        (folder / "copy").mkdir()
        (folder / "copy" / "file").write_text("another")

    between_the_renames(monkeypatch, publish_another)
    replace_anew(folder)
    assert (folder / "copy" / "file").read_text() == "another"
    assert names(folder) == ["copy"]


def test_an_error_between_the_renames_leaves_the_old_folder(folder, monkeypatch):
    rename = os.replace

    def replace(source, destination):
        if Path(source).name == "made":
            raise OSError(errno.EIO, "the disk is gone")
        rename(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="the disk is gone"):
        replace_anew(folder)
    assert (folder / "copy" / "file").read_text() == "old"
    assert names(folder) == ["copy"]

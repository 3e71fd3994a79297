"""The page of a folder of runs: every run is linked, whoever wrote it and whenever it ended."""

import json
import subprocess
import sys

from jaxdl.claims import Claim, write_claims, write_gallery
from jaxdl.claims.runs_index import write_index


def stored(runs, name, summary="A toy."):
    """What `main` leaves, as far as the page reads it."""
    folder = runs / name
    folder.mkdir(parents=True, exist_ok=True)
    write_claims(folder, [Claim("it is one: it", 1, 1, 1), Claim("it is two: it", 1, 2, 2)])
    (folder / "config.json").write_text(json.dumps({"preset": "smoke"}))
    (folder / "figure.png").write_bytes(b"PNG")
    (folder / "index.html").write_text(f'<meta name="description" content="{summary}">')
    return folder


def test_every_run_is_linked_with_what_came_of_it(tmp_path):
    stored(tmp_path, "gains")
    stored(tmp_path, "of_a_stranger", "Is 1 &lt; 2?")
    (tmp_path / "checkpoints").mkdir()
    page = write_index(tmp_path).read_text()
    assert page.count("<div class=card>") == 2
    assert '<a href="of_a_stranger/index.html"><img' in page
    assert 'src="gains/figure.png"' in page
    assert "Is 1 &lt; 2?" in page
    assert page.count("1 holds, 1 is refuted") == 2
    assert "gallery.html" not in page
    assert "checkpoints" not in page


def test_the_gallery_and_the_index_link_each_other(tmp_path):
    stored(tmp_path / "runs", "of_a_stranger")
    script = tmp_path / "mine.py"
    script.write_text('"""What it shows."""')
    gallery = write_gallery({"Mine": [script]}, tmp_path / "runs").read_text()
    assert 'href="index.html"' in gallery
    assert "of_a_stranger" not in gallery
    page = (tmp_path / "runs" / "index.html").read_text()
    assert 'href="gallery.html"' in page
    assert 'href="of_a_stranger/index.html"' in page


def test_a_run_of_an_earlier_version_is_linked_too(tmp_path):
    folder = stored(tmp_path, "old")
    (folder / "claims.json").write_text('[{"text": "old", "measured": null}]')
    page = write_index(tmp_path).read_text()
    assert 'href="old/index.html"' in page
    assert "an earlier version wrote its claims" in page


WRITER = """
import sys, pathlib
from jaxdl.claims.runs_index import write_index
sys.path.insert(0, sys.argv[3])
from test_runs_index import stored
runs = pathlib.Path(sys.argv[1])
for number in range(20):
    stored(runs, f"{sys.argv[2]}{number}")
    write_index(runs)
"""


def test_of_processes_that_end_at_once_none_is_lost(tmp_path):
    here = __file__.rpartition("/")[0]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name, here])
        for name in ("a", "b")
    ]
    seen = []
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "index.html").is_file():
            seen.append((tmp_path / "index.html").read_text())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen
    assert all(page.endswith("</body></html>\n") for page in seen)
    page = (tmp_path / "index.html").read_text()
    missing = [f"{n}{i}" for n in "ab" for i in range(20) if f'"{n}{i}/index.html"' not in page]
    assert missing == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

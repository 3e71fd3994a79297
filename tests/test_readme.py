"""What the README shows runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_library_in_fifteen_lines_and_what_follows_them(tmp_path):
    code, own_data, more, elsewhere, _ = BLOCKS
    statements = [line for line in code.splitlines() if line]
    assert len(statements) <= 16
    done = subprocess.run(
        [sys.executable, "-c", code + own_data + more + elsewhere],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    written = {path.name for path in (tmp_path / "runs" / "digits").iterdir()}
    assert written > {"tensorboard", "page"}
    assert "Ended at" in (tmp_path / "runs" / "digits" / "page" / "page.html").read_text("utf-8")
    accuracy = float(re.search(r"'accuracy': ([\d.]+)", done.stdout).group(1))
    assert accuracy > 0.85
    assert "validation_roc_auc_score" in done.stdout
    assert "<xarray.DataArray 'accuracy' (rate: 3)>" in done.stdout
    assert "healthy: nothing found in 3 rows" in done.stdout


def test_an_experiment_of_ones_own_holds(tmp_path):
    (tmp_path / "own.py").write_text(BLOCKS[-1])
    done = subprocess.run(
        [sys.executable, "own.py"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "holds" in done.stdout
    assert (tmp_path / "runs" / "own" / "index.html").is_file()


def test_every_file_it_names_is_there():
    for name in re.findall(r"(?:experiments|docs)/[\w/]+\.\w+", README):
        assert (ROOT / name).is_file(), name

"""The notebooks run from top to bottom, without a screen, and show what they should."""

import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NUMBERS = r"loss [\d.e-]+, accuracy [\d.]+; validation loss [\d.e-]+, accuracy [\d.]+"


def executed(file, monkeypatch):
    """The notebook with the outputs of a kernel of its own, which is stopped."""
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    notebook = nbformat.read(file, as_version=4)
    # A socket's path is at most 107 characters long, which pytest's own folders may exceed.
    with tempfile.TemporaryDirectory() as folder:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
            monkeypatch.setenv(name, str(Path(folder, name.lower())))
        # What tests/conftest.py lets pass; anything else on standard error is an output.
        monkeypatch.setenv("PYTHONWARNINGS", "ignore:Error reading persistent compilation cache")
        manager = AsyncKernelManager(
            kernel_name="python3",
            connection_file=str(Path(folder, "kernel.json")),
            transport="tcp" if sys.platform == "win32" else "ipc",
        )
        client = NotebookClient(
            notebook, km=manager, timeout=120, resources={"metadata": {"path": folder}}
        )
        client.execute(cleanup_kc=True)
        assert not manager.has_kernel
    return notebook


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_stored_without_outputs(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_the_first_network(monkeypatch):
    notebook = executed(FOLDER / "first_network.ipynb", monkeypatch)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.get("name") == "stderr"] == []

    def outputs_of(start):
        """Those of the one cell that begins so."""
        (cell,) = (cell for cell in cells if cell.source.startswith(start))
        return cell.outputs

    said = "".join(output.text for output in outputs_of("optimizer =")).splitlines()
    assert len(said) == 10
    for epoch, line in enumerate(said, 1):
        assert re.fullmatch(rf"epoch {epoch:2}/10: {NUMBERS}; [\d.e-]+ s", line)

    (shown,) = next(cell.outputs for cell in cells if cell.source == "result")
    assert re.fullmatch(rf"Result\(10 epochs, 260 steps: {NUMBERS}\)", shown.data["text/plain"])
    assert shown.data["text/plain"] in shown.data["text/html"]
    assert shown.data["text/html"].count("<svg") == 2  # loss and accuracy

    for start in ("result.history.plot()", "after ="):
        (figure,) = outputs_of(start)
        assert set(figure.data) == {"text/plain", "image/png"}

    (last,) = outputs_of("more =")
    assert re.fullmatch(rf"20/20 epochs: {NUMBERS}; [\d.]+ s", last.data["text/plain"])

    (matrix,) = outputs_of("guesses =")
    counts = [int(number) for number in re.findall(r"\d+", matrix.data["text/plain"])]
    test = next(cell.outputs[0] for cell in cells if "evaluate" in cell.source)
    accuracy = float(re.search(r"'accuracy': ([\d.]+)", test.data["text/plain"]).group(1))
    assert sum(counts[::11]) / sum(counts) == pytest.approx(accuracy)

    for start in ("model =", "batch =", "diagnostics.advise"):
        (table,) = outputs_of(start)
        assert table.data["text/html"].startswith("<div>")

"""The chapters are stored as text without outputs, check themselves, and the first one runs."""

import ast
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "chapters"
CELL = re.compile(r"^```\{code-cell\}(.*)\n((?:.*\n)*?)^```$", re.M)
HEADER = re.compile(r"\A---\n(.*?\n)---\n", re.S)
NUMBERS = r"loss [\d.e-]+, accuracy [\d.]+; validation loss [\d.e-]+, accuracy [\d.]+"


def chapters():
    """The pages of the folder that have a notebook's header."""
    pages = {file: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.md"))}
    return [file for file, text in pages.items() if "jupytext:" in text[:200]]


def cells_of(file):
    """The code of every cell, without the lines of options at its head."""
    found = CELL.findall(file.read_text(encoding="utf-8"))
    return [re.sub(r"\A(?::[\w-]+:.*\n)+\n?", "", code) for _, code in found]


def executed(file, monkeypatch):
    """A notebook of the cells with the outputs of a kernel of its own, which is stopped."""
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code) for code in cells_of(file)]
    )
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


def test_the_chapters_of_the_lectures_are_there():
    names = {file.stem for file in chapters()}
    assert {"first_network", "initialization", "normalization"} <= names


@pytest.mark.parametrize("file", chapters(), ids=lambda file: file.stem)
def test_a_chapter_is_a_notebook_as_text(file):
    text = file.read_text(encoding="utf-8")
    header = HEADER.match(text)
    assert header is not None
    for line in ("format_name: myst", "kernelspec:", "name: python3"):
        assert line in header.group(1)
    # Every cell that opens is closed, and holds Python.
    assert len(CELL.findall(text)) == text.count("\n```{code-cell}")
    assert {language.strip() for language, _ in CELL.findall(text)} == {"python"}
    for code in cells_of(file):
        ast.parse(code)


@pytest.mark.parametrize("file", chapters(), ids=lambda file: file.stem)
def test_a_chapter_checks_itself_and_has_exercises(file):
    trees = [ast.parse(code) for code in cells_of(file)]
    checking = [any(isinstance(node, ast.Assert) for node in ast.walk(tree)) for tree in trees]
    assert sum(checking) >= len(checking) / 3
    _, _, exercises = file.read_text(encoding="utf-8").partition("\n## Exercises\n")
    questions = re.findall(r"^\*\*(\d+)\.\*\*", exercises, re.M)
    assert questions == [str(number) for number in range(1, len(questions) + 1)]
    assert len(questions) >= 4
    # Each has an answer, in words that unfold or in a cell that does.
    for answer in re.split(r"^\*\*\d+\.\*\*", exercises, flags=re.M)[1:]:
        assert ":class: dropdown" in answer or "{dropdown}" in answer or "hide-cell" in answer


@pytest.mark.slow
def test_the_first_network(monkeypatch):
    notebook = executed(FOLDER / "first_network.md", monkeypatch)
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert [output for output in outputs if output.get("name") == "stderr"] == []

    def output_of(word, kind):
        """That of the one cell with this word, in this form."""
        (cell,) = (cell for cell in notebook.cells if word in cell.source)
        if kind == "text":
            return "".join(output.text for output in cell.outputs if "text" in output)
        return cell.outputs[-1].data[kind]

    said = output_of('progress="lines"', "text").splitlines()
    assert len(said) == 5
    for epoch, line in enumerate(said, 1):
        assert re.fullmatch(rf"epoch {epoch}/5: {NUMBERS}; [\d.e-]+ s", line)

    shown = output_of('progress="lines"', "text/plain")
    assert re.fullmatch(rf"Result\(5 epochs, 350 steps: {NUMBERS}\)", shown)
    html = output_of('progress="lines"', "text/html")
    assert shown in html
    assert html.count("<svg") == 2  # loss and accuracy

    for word in ("plotting.images(every", "result.history.plot()", "confusion_matrix(", "missed ="):
        assert output_of(word, "image/png")

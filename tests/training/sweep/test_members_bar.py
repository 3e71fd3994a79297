"""What a sweep says while it lasts."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from jaxdl.training.sweep.members_bar import members_bar


def test_a_bar_on_a_terminal_counts_members():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with members_bar(8, console=console) as tell:
        tell(4)
        tell(4)
    assert "8/8" in console.file.getvalue()


@pytest.mark.parametrize(("show", "lines"), [(True, 3), (None, 0)])
def test_a_line_in_a_notebook_is_renewed_if_asked_for(show, lines, monkeypatch):
    texts = []

    def display(content, *, raw, display_id):
        texts.append(content["text/plain"])
        return SimpleNamespace(update=lambda content, raw: texts.append(content["text/plain"]))

    monkeypatch.setattr("IPython.display.display", display)
    with members_bar(8, show=show, console=Console(force_jupyter=True)) as tell:
        tell(3)
        tell(5)
    assert [text.partition(";")[0] for text in texts] == [
        "0/8 members", "3/8 members", "8/8 members",
    ][:lines]  # fmt: skip

"""What docs/fine_tuning.md shows runs as it stands."""

from pages import run_page


def test_the_page_runs():
    assert run_page("fine_tuning.md") == 9

"""The start page and the guides run as they stand, and say what the project has."""

import importlib
import re
import tomllib

import pytest
from pages import DOCS, ROOT, blocks_of, run_blocks

GUIDES = sorted((DOCS / "guides").glob("*.md"))
PAGES = [DOCS / "start.md", DOCS / "why.md", *GUIDES]
WITH_TORCH = {"from_pytorch.md"}
START = (DOCS / "start.md").read_text(encoding="utf-8")


def cases():
    for page in PAGES:
        marks = [pytest.mark.parity] if page.name in WITH_TORCH else []
        yield pytest.param(page, marks=marks, id=page.name)


@pytest.mark.parametrize("page", cases())
def test_the_page_runs(page, tmp_path, monkeypatch):
    if page.name in WITH_TORCH:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_runs(page):
    text = page.read_text(encoding="utf-8")
    fences = re.findall(r"^ *```[^\n]*", text, re.M)
    assert len(fences) == 2 * len(blocks_of(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_cross_referenced_is_public(page):
    for path in re.findall(r"\{py:\w+\}`([\w.]+)`", page.read_text(encoding="utf-8")):
        room, _, name = path.rpartition(".")
        module = importlib.import_module(room)
        assert name in module.__all__, path


def test_the_index_lists_every_guide():
    index = (DOCS / "guides" / "index.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.M | re.DOTALL)
    listed = [line for line in tree.splitlines() if line and not line.startswith(":")]
    assert {page.stem for page in GUIDES} - {"index"} <= set(listed)
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert (DOCS / "guides" / f"{name}.md").is_file(), name


def test_the_fifteen_lines_are_the_readmes():
    (first, *_) = [code for _, kind, code in blocks_of(DOCS / "start.md") if kind == "python"]
    (readmes, *_) = [code for _, kind, code in blocks_of(ROOT / "README.md") if kind == "python"]
    assert first == readmes


# The table of extras.


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def extras_of_the_page():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", START, re.M)
    return {extra: (installs, needs) for extra, installs, needs in rows}


def test_the_table_of_extras_installs_what_the_project_says():
    table = extras_of_the_page()
    assert set(table) == set(EXTRAS)
    for extra, (installs, _) in table.items():
        said = set(re.findall(r"[\w.-]+", re.sub(r"\b(?:the|extras?|and)\b", "", installs)))
        meant = set()
        for requirement in EXTRAS[extra]:
            inner = re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", requirement)
            package = re.match(r"[\w.-]+", requirement)[0]
            meant |= set(inner[1].split(",")) if inner else {package}
        assert said == meant, extra


def rooms_that_ask():
    """The packages of `jaxdl` that import from an extra, by extra."""
    found = {}
    for path in sorted((ROOT / "jaxdl").rglob("*.py")):
        room = path.relative_to(ROOT / "jaxdl").parts[0]
        for call in re.findall(r"(?<!def )import_extra\((.*?)\)\n", path.read_text("utf-8")):
            extra = re.search(r'"(\w+)"$', call.partition(", ")[2])
            named = extra and extra[1] in EXTRAS
            found.setdefault(extra[1] if named else "experiments", set()).add(room)
    return {extra: rooms - {"extras.py"} for extra, rooms in found.items()}


def test_the_table_of_extras_names_all_rooms_that_need_one():
    for extra, rooms in rooms_that_ask().items():
        _, needs = extras_of_the_page()[extra]
        names = re.findall(r"`(\w+)\.(\w+)`", needs)
        for room, name in names:
            assert name in importlib.import_module(f"jaxdl.{room}").__all__, (room, name)
        assert {room for room, _ in names} == rooms, extra

"""The start page and the guides run as they stand, and say what the project has."""

import importlib.util
import os
import re
import subprocess
import tomllib

import pytest
from pages import DOCS, ROOT, blocks_of, run_blocks
from processes import STRICT_PYTHON, environment

from jaxdl.claims import read_claims

GUIDES = sorted((DOCS / "guides").glob("*.md"))
PAGES = [DOCS / "start.md", DOCS / "why.md", *GUIDES]
WITH_TORCH = {"from_pytorch.md"}
START = (DOCS / "start.md").read_text(encoding="utf-8")


def case(page):
    marks = [pytest.mark.parity] if page.name in WITH_TORCH else []
    return pytest.param(page, marks=marks, id=page.name)


@pytest.mark.parametrize("page", [case(page) for page in GUIDES])
def test_the_page_runs(page, tmp_path, monkeypatch):
    if page.name in WITH_TORCH:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


@pytest.mark.parametrize("name", ["start.md", "why.md"])
def test_the_page_runs_as_in_a_users_process(name, tmp_path):
    """Without the tests' check of types: the README's lines pass NumPy's arrays to a model."""
    program = f"import pages; pages.run_blocks(pages.DOCS / {name!r})"
    done = subprocess.run(
        [*STRICT_PYTHON, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(PYTHONPATH=os.pathsep.join([str(ROOT / "tests"), str(ROOT)])),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_runs(page):
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```\{.*?^```$", "", text, flags=re.M | re.DOTALL)  # directives of the site
    fences = re.findall(r"^ *```", text, re.M)
    assert len(fences) == 2 * len(blocks_of(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue  # elsewhere
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


# The claim of a paper.


def code_lines(source):
    """Lines of code: neither empty, nor a comment, nor of the docstring."""
    body = source.partition('"""')[2].partition('"""')[2]
    return [line for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]


@pytest.fixture
def stalled(tmp_path):
    page = DOCS / "guides" / "claims.md"
    (source,) = [
        code
        for remark, kind, code in blocks_of(page)
        if remark.startswith("run by: tests/") and kind == "python"
    ]
    assert len(code_lines(source)) <= 60

    def run(source):
        (tmp_path / "stalled.py").write_text(source, encoding="utf-8")
        command = [*STRICT_PYTHON, "stalled.py"]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment()
        )
        claims = read_claims(tmp_path / "runs" / "stalled")
        return done.returncode, [claim.verdict for claim in claims]

    return source, run


@pytest.mark.slow
def test_the_claim_of_the_paper_holds_and_its_opposite_is_refuted(stalled):
    source, run = stalled
    assert run(source) == (0, ["holds", "holds"])
    swapped = source.replace("glorot_normal", "HE").replace("he_normal", "glorot_normal")
    assert run(swapped.replace("HE", "he_normal")) == (1, ["refuted", "refuted"])


# Why jaxdl.


def test_the_lines_of_code_are_those_counted():
    spec = importlib.util.spec_from_file_location("count", DOCS / "examples" / "count.py")
    counter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(counter)
    text = (DOCS / "why.md").read_text(encoding="utf-8")
    names = {"jaxdl": "jaxdl", "keras": "Keras 3", "skorch": "skorch"}
    for library, lines in counter.count().items():
        counted = [lines[task] for task in counter.TASKS]
        row = " | ".join(map(str, [names[library], *counted, sum(counted)]))
        assert f"| {row} |" in text

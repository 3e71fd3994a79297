"""What the library says to install is what it was declared to need, in a command that works."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from jaxdl import extras
from jaxdl.data import available

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def asked_for():
    """Every (module, extra) that the library imports with `import_extra`."""
    for path in sorted((ROOT / "jaxdl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "import_extra":
                module, _, extra = [*node.args, ast.Constant("experiments")][:3]
                yield ast.literal_eval(module), ast.literal_eval(extra)


ASKED = sorted(set(asked_for()))


def listed(extra):
    """The requirements of an extra, those of the extras that it includes too."""
    for requirement in EXTRAS[extra]:
        inner = re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", requirement)
        if inner:
            for name in inner[1].split(","):
                yield from listed(name)
        else:
            yield requirement


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed jaxdl that asks for what pyproject.toml says, as an installer writes it down."""
    needs = [f"{each}; extra == '{extra}'" for extra in EXTRAS for each in listed(extra)]
    lines = [f"Name: {PROJECT['name']}", "Version: 0", *(f"Requires-Dist: {x}" for x in needs)]
    folder = tmp_path / "jaxdl_lab-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.4\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_installers_know_the_package_by_one_name():
    assert PROJECT["name"] == extras.DISTRIBUTION


@pytest.mark.parametrize(("module", "extra"), ASKED)
def test_a_hint_is_a_requirement_of_its_extra_with_its_bounds(installed, module, extra):
    (requirement,) = re.fullmatch(r'pip install "([^"]+)"', extras.install_command(module)).groups()
    assert requirement in set(listed(extra))


def test_every_extra_that_brings_something_to_the_library_is_asked_for():
    for_developers = {"test", "parity", "docs"}
    assert set(EXTRAS) - for_developers <= {extra for _, extra in ASKED}


@pytest.mark.parametrize(("module", "extra"), ASKED)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, module, extra):
    package = module.partition(".")[0]
    for name in [each for each in sys.modules if f"{each}.".startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ImportError) as caught:
        extras.import_extra(module, "this", extra)
    assert str(caught.value) == (
        f"this needs {package}, which is not installed; {extras.install_command(module)} "
        f'(part of the extra "{extra}")'
    )


def test_a_set_that_is_not_here_says_how_to_get_it(installed, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (digits,) = [entry for entry in available() if entry.name == "digits"]
    (requirement,) = [each for each in listed("experiments") if each.startswith("scikit-learn")]
    assert digits.found == f'to be installed: pip install "{requirement}"'


def test_without_an_installed_jaxdl_the_package_is_named_without_bounds(monkeypatch):
    monkeypatch.setattr(extras, "DISTRIBUTION", "no-such-distribution")
    assert extras.install_command("sklearn.datasets") == 'pip install "scikit-learn"'


def test_a_package_that_is_installed_and_broken_is_not_called_missing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_installed.py").write_text("import what_it_needs\n")
    (tmp_path / "too_old.py").write_text("from math import no_such_function\n")
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'what_it_needs'$"):
        extras.import_extra("half_installed", "this")
    with pytest.raises(ImportError, match=r"^cannot import name 'no_such_function'"):
        extras.import_extra("too_old", "this")


def test_nobody_is_told_to_install_another_project_of_the_same_name():
    """On the index `jaxdl` is not this project, and `jaxdl-lab` is not there yet."""
    told = re.compile(r"pip install[^\n]*\bjaxdl\b")
    folders = [ROOT / name for name in ("jaxdl", "tests", "experiments", "docs", ".ci")]
    files = [path for folder in folders for path in folder.rglob("*")] + [*ROOT.iterdir()]
    texts = [path for path in files if path.suffix in (".py", ".md", ".toml", ".html", "", ".txt")]
    wrong = [
        (str(path), line)
        for path in texts
        if path.is_file()
        for line in told.findall(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert wrong == []

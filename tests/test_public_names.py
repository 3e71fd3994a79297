"""What is public: listed, documented, and all that `dir` and `import *` show."""

import ast
import importlib
import inspect
import itertools
import re
from pathlib import Path
from types import ModuleType

import pytest

import jaxdl

ROOT = Path(__file__).parent.parent
PACKAGE = Path(jaxdl.__file__).parent


def modules_from(module):
    """The public modules: this one, and those among its public names."""
    yield module
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            yield from modules_from(value)


MODULES = {module.__name__: module for module in modules_from(jaxdl)}


def documented_values():
    """The names of values that a string below them explains."""
    for path in PACKAGE.rglob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement, below in itertools.pairwise(body):
            if isinstance(statement, ast.Assign | ast.AnnAssign) and (
                isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            ):
                targets = getattr(statement, "targets", [getattr(statement, "target", None)])
                yield from (
                    node.id
                    for each in targets
                    for node in ast.walk(each)
                    if isinstance(node, ast.Name)
                )


VALUES = set(documented_values())


@pytest.mark.parametrize("name", MODULES)
def test_dir_and_a_star_show_the_public_names_alone(name):
    module, star = MODULES[name], {}
    exec(f"from {name} import *", star)
    del star["__builtins__"]
    public = set(module.__all__)
    assert len(module.__all__) == len(public)
    assert [each for each in public if each.startswith("_")] == []
    assert {each for each in dir(module) if not each.startswith("__")} == public == set(star)
    assert {"__all__", "__doc__", "__name__", "__file__"} < set(dir(module))


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_documented(name):
    def is_documented(each):
        value = getattr(MODULES[name], each)
        if not (inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value)):
            return each in VALUES
        # Python gives a dataclass or a named tuple its signature where nobody wrote more.
        return bool(value.__doc__) and not value.__doc__.startswith(f"{each}(")

    assert [each for each in MODULES[name].__all__ if not is_documented(each)] == []


@pytest.mark.parametrize(
    "path",
    sorted(PACKAGE.rglob("__init__.py")),
    ids=lambda path: path.parent.name,
)
def test_a_package_that_gathers_names_lists_them(path):
    name = ".".join(path.parent.relative_to(ROOT).parts)
    only_its_docstring = len(ast.parse(path.read_text(encoding="utf-8")).body) == 1
    assert only_its_docstring or importlib.import_module(name).__all__


def test_what_the_documents_name_is_there():
    rooms = {name.rpartition(".")[2]: module for name, module in MODULES.items()}
    named = re.compile(rf"(?<![\w./\"])(?:jaxdl\.)?({'|'.join(rooms)})\.(\w+)")
    found = set()
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        found |= set(named.findall(path.read_text(encoding="utf-8")))
    assert len(found) > 20
    assert [(room, name) for room, name in found if not hasattr(rooms[room], name)] == []

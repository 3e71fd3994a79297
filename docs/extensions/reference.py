"""Pages of the public names, written from the docstrings before the site is built.

A module of the library that is public (see `__all__`) has a page. Its names stand in groups: those
of one file together, under the first line of that file's docstring.
"""

import ast
import importlib
import inspect
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from docstrings import as_markdown
from signatures import definition, of_method, signature

import jaxdl

LEAST = 4
"""So many backticks enclose a name; what it encloses has fewer."""


IDEAS = {
    "Build a network": ("models", "layers", "activations", "initializers", "losses", "metrics"),
    "Train it": (
        "training",
        "training.checkpoints",
        "optimizers",
        "optimizers.schedules",
        "observers",
        "data",
        "data.augmentation",
    ),
    "Understand it": (
        "diagnostics",
        "diagnostics.theory",
        "diagnostics.wide_networks",
        "diagnostics.artificial_landscapes",
        "backpropagation",
        "claims",
        "plotting",
    ),
    "Models and weights from elsewhere": ("calling", "interop"),
}
"""The public modules by idea. One that is missing here stops the build."""

LEADING = {
    "training": "fit Result History load Task make_run Run make_train_step sweep search",
    "optimizers": "sgd momentum nesterov adagrad adadelta rmsprop adam adamw adamax",
    "diagnostics": "propagation Propagation advise histograms summary graph rate_range mean_field "
    "sharpness gradient_noise signal_to_noise jacobian_spectrum tangent_kernel attention",
    "data": "load available split Dataset as_dataset from_folder from_csv from_frame",
    "claims": "Claim about_mean about_means about_ratios about_share about_quantile main",
    "observers": "page propagation_every early_stopping report_plateau history_lines tensorboard",
    "calling": "adapt Adapted call_model",
    "initializers": "he_normal he_uniform glorot_normal glorot_uniform lecun_normal",
}
"""What a reader looks for first; the other names follow in the order of the alphabet."""


def public_modules(module: ModuleType, full: str) -> dict[str, ModuleType]:
    """By the name under which it is public: the module, and the modules among its names."""
    found = {full: module}
    for name in module.__all__:
        if isinstance(value := getattr(module, name), ModuleType):
            found |= public_modules(value, f"{full}.{name}")
    return found


class Names:
    """Every public name, by its full name."""

    def __init__(self) -> None:
        self.modules = public_modules(jaxdl, "jaxdl")
        self.values = {
            f"{module}.{name}": getattr(found, name)
            for module, found in self.modules.items()
            for name in found.__all__
            if not isinstance(getattr(found, name), ModuleType)
        }
        self.members = {
            f"{name}.{member}"
            for name, value in self.values.items()
            if inspect.isclass(value)
            for member in members(value)
        }
        self.all = {*self.modules, *self.values, *self.members}

    def link(self, name: str, module: str, owner: str = "") -> str | None:
        """The full name that `name` means in the docstring of something in a module."""
        tried = (f"{module}.{owner}.{name}", f"{module}.{name}", name, f"jaxdl.{name}")
        return next((each for each in tried if each in self.all), None)


def members(value: type) -> dict[str, ast.FunctionDef]:
    """The public methods and properties that have a docstring, by name, in the source's order."""
    node = definition(value) if value.__module__.startswith("jaxdl") else None
    return {
        part.name: part
        for part in (node.body if isinstance(node, ast.ClassDef) else ())
        if isinstance(part, ast.FunctionDef)
        and not part.name.startswith("_")
        and ast.get_docstring(part)
    }


def write_reference(folder: Path) -> None:
    """Write a page a module, and the index of them."""
    folder.mkdir(exist_ok=True)
    names = Names()
    placed = {f"jaxdl.{name}" for group in IDEAS.values() for name in group} | {"jaxdl"}
    if placed != set(names.modules):
        raise ValueError(
            "IDEAS must place every public module, got "
            f"{', '.join(sorted(placed ^ set(names.modules)))} on one side only; add or remove it"
        )
    parts = [
        "# Reference",
        "Every public name, with its equation, its arguments, what it raises, an example and the "
        "source. The tests run the examples. Nothing else is public: what a module imports for "
        "itself may change without notice.",
    ]
    for idea, group in IDEAS.items():
        parts += [f"## {idea}", _table((name, f"jaxdl.{name}", "mod", names) for name in group)]
        parts.append(_toctree(group))
        for name in group:
            _write(folder / f"{name}.md", page_of(f"jaxdl.{name}", names))
    _write(folder / "index.md", "\n\n".join(parts) + "\n")


def _toctree(pages: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])


def _table(rows: Iterable[tuple[str, str, str, Names]]) -> str:
    """Names and what they are, in a line each."""
    lines = []
    for name, full, role, names in rows:
        value = names.modules.get(full) or names.values[full]
        said = first_line(value) if role == "mod" else one_line(full, names)
        lines.append(f"| {{py:{role}}}`{name} <{full}>` | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(["| name | what it is |", "| --- | --- |", *lines])


def one_line(full: str, names: Names) -> str:
    """The first sentence of what is said of a value."""
    module, _, name = full.rpartition(".")
    explained = texts(home(module, name, names))
    value = names.values[full]
    text = inspect.getdoc(value) or ""
    if name in explained:
        text = explained[name][1]
    elif inspect.isclass(value) and not value.__module__.startswith("jaxdl"):
        text = f"This is `{value.__module__}.{value.__qualname__}`."
    return as_markdown(" ".join(text.partition("\n\n")[0].split()), lambda _: None)


def page_of(full: str, names: Names) -> str:
    """The page of a module, in Markdown."""
    module = names.modules[full]
    about = as_markdown(inspect.getdoc(module) or "", lambda name: names.link(name, full))
    groups: dict[str, list[str]] = {}
    leading = LEADING.get(full.removeprefix("jaxdl."), "").split()
    for name in dict.fromkeys([*leading, *module.__all__]):
        if f"{full}.{name}" in names.values:
            groups.setdefault(home(full, name, names), []).append(name)
    parts = [f"# {full.removeprefix('jaxdl.')}", f"```{{py:module}} {full}\n```", about]
    several = [name for of in groups.values() for name in of]
    parts.append(_table((name, f"{full}.{name}", "obj", names) for name in several))
    for file, members_of in groups.items():
        if len(groups) > 1:
            parts.append(f"## {title(file)}")
        parts += [described(full, name, names) for name in members_of]
    return "\n\n".join(parts) + "\n"


def home(module: str, name: str, names: Names) -> str:
    """The module whose file defines a public name."""
    value = names.values[f"{module}.{name}"]
    found = getattr(inspect.unwrap(value) if callable(value) else value, "__module__", "") or ""
    if found.startswith("jaxdl"):
        return found
    own = names.modules[module].__name__
    inside = (each for each in sorted(sys.modules) if each.startswith(own) and name in texts(each))
    return next(inside, own)


def title(module: str) -> str:
    """The first line of a file's docstring, without its point."""
    return first_line(importlib.import_module(module)).rstrip(".")


def first_line(module: ModuleType) -> str:
    """The first line of a module's docstring."""
    return (inspect.getdoc(module) or "").partition("\n")[0]


def texts(module: str) -> dict[str, tuple[str, str]]:
    """Of a file's values that a string below them explains: what is assigned, and the string."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or not file.endswith(".py"):
        return {}
    body = ast.parse(Path(file).read_text(encoding="utf-8")).body
    found = {}
    for statement, below in itertools.pairwise(body):
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            continue
        target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        is_explained = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if is_explained and isinstance(target, ast.Name):
            found[target.id] = ast.unparse(statement.value or target), str(below.value.value)
    return found


def described(module: str, name: str, names: Names) -> str:
    """A name with its signature and its docstring, as a directive of Sphinx."""
    full = f"{module}.{name}"
    value = names.values[full]

    def markdown(text: str, owner: str = "") -> str:
        return as_markdown(inspect.cleandoc(text), lambda each: names.link(each, module, owner))

    at = home(module, name, names)
    if name in (explained := texts(at)) or not (inspect.isclass(value) or callable(value)):
        said, text = explained.get(name, (repr(value), inspect.getdoc(value) or ""))
        return _directive("data", name, "", f"`{said}`\n\n{markdown(text)}")
    original = getattr(value, "__name__", name)
    if original != name and f"{module}.{original}" in names.values:
        return _directive("data", name, "", markdown(f"Another name of `{original}`."))
    if not inspect.isclass(value):
        if not inspect.isfunction(inspect.unwrap(value)):
            return _directive("data", name, "", markdown(inspect.getdoc(value) or ""))
        return _directive("function", name, signature(value), markdown(inspect.getdoc(value) or ""))
    if not value.__module__.startswith("jaxdl"):
        return _directive("class", name, "", f"This is `{value.__module__}.{value.__qualname__}`.")
    inner = [markdown(value.__doc__ or "", name)]
    for member, node in members(value).items():
        decorators = [ast.unparse(each) for each in node.decorator_list]
        is_property = any("property" in each for each in decorators)
        kind = "property" if is_property else "method"
        said = "" if is_property else of_method(node)
        text = markdown(ast.get_docstring(node) or "", name)
        inner.append(_directive(kind, member, said, text, LEAST))
    kind = "exception" if issubclass(value, Exception) else "class"
    return _directive(kind, name, signature(value), "\n\n".join(inner), LEAST + 1)


def _directive(kind: str, name: str, arguments: str, text: str, ticks: int = LEAST) -> str:
    fence = "`" * ticks
    return f"{fence}{{py:{kind}}} {name}{arguments}\n\n{text}\n{fence}"


def _write(file: Path, text: str) -> None:
    """Leave a file alone that would not change: it is not read again."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx when to write."""
    app.connect("builder-inited", lambda app: write_reference(Path(app.srcdir, "reference")))
    return {"parallel_read_safe": True}

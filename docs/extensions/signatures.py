"""What a reader sees of a function's or a class's arguments: the source's own words."""

import ast
import inspect
import textwrap
from typing import Any

_UNSAID = ("Any", "")


def definition(value: Any) -> ast.FunctionDef | ast.ClassDef:
    """The syntax of a function or a class."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(value)))
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef | ast.ClassDef), value
    return node


def signature(value: Any) -> str:
    """The arguments in parentheses, with their defaults as they are written."""
    node = definition(value)
    if isinstance(node, ast.FunctionDef):
        return _of_function(node)
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            part.args.args = part.args.args[1:]
            part.returns = None
            return _of_function(part)
    if inspect.isclass(value) and issubclass(value, Exception):
        return ""
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    return f"({', '.join(_field(field) for field in fields)})" if fields else ""


def of_method(node: ast.FunctionDef) -> str:
    """The arguments of a method without the first."""
    if not any(ast.unparse(each) == "staticmethod" for each in node.decorator_list):
        node.args.args = node.args.args[1:]
    return _of_function(node)


def _of_function(node: ast.FunctionDef) -> str:
    arguments = node.args
    for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        if each.annotation and ast.unparse(each.annotation) in _UNSAID:
            each.annotation = None
    returns = ast.unparse(node.returns) if node.returns else ""
    return f"({ast.unparse(arguments)})" + (f" -> {returns}" if returns not in _UNSAID else "")


def _field(field: ast.AnnAssign) -> str:
    name, kind = ast.unparse(field.target), ast.unparse(field.annotation)
    default = ast.unparse(field.value) if field.value else ""
    if default.startswith(("field(", "struct.field(", "dataclasses.field(")):
        default = "..." if "default" in default else ""
    said = name if kind in _UNSAID else f"{name}: {kind}"
    return f"{said} = {default}" if default else said

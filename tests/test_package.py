"""The package as a whole: what importing it costs, and which floor may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import jaxdl

ROOT = Path(jaxdl.__file__).parent

HEAVY = (
    "tensorflow", "tensorflow_datasets", "matplotlib", "grain", "orbax", "torch", "xarray",
    "tensorboard", "tensorboardX",
)  # fmt: skip

FLOORS = {
    "initializers": 1,
    "activations": 1,
    "losses": 1,
    "metrics": 1,
    "layers": 2,
    "optimizers": 2,
    "data": 2,
    "models": 3,
    "training": 4,
    "diagnostics": 4,
    "plotting": 5,
    "cli": 5,
}


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, jaxdl\n"
        "from jaxdl import activations, data, diagnostics, initializers, layers, losses\n"
        "from jaxdl import metrics, models, optimizers, training\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_importing_alone_loads_not_even_jax():
    assert run("import sys, jaxdl; print('jax' in sys.modules, dir(jaxdl)[0])") == (
        "False __version__\n"
    )


def test_a_lower_floor_never_imports_a_higher_one():
    found = {}
    for path in ROOT.rglob("*.py"):
        here = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module == "jaxdl":
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxdl."):
                names = [node.module.split(".")[1]]
            elif isinstance(node, ast.Import):
                names = [a.name.split(".")[1] for a in node.names if a.name.startswith("jaxdl.")]
            for name in names:
                found.setdefault((here, name), path)
    assert {name for pair in found for name in pair} <= set(FLOORS), "a new part needs a floor"
    wrong = {pair: path for pair, path in found.items() if FLOORS[pair[0]] < FLOORS[pair[1]]}
    assert not wrong

"""The package as a whole: what importing it costs, and which floor may import which."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import jaxdl

ROOT = Path(jaxdl.__file__).parent

HEAVY = (
    "tensorflow", "tensorflow_datasets", "matplotlib", "grain", "orbax", "torch", "xarray",
    "tensorboard", "tensorboardX", "tyro", "psutil", "pandas", "sklearn", "safetensors",
    "dask", "distributed",
)  # fmt: skip

# Who may be imported by whom: only what stands before it. DESIGN has the floors.
ROOMS = (
    (
        "public",
        "checks",
        "factories",
        "notices",
        "showing",
        "jaxprs",
        "freed_memory",
        "host_loops",
        "compiling",
        "environment",
        "calling",
        "tracing",
        "fingerprints",
        "forking",
        "files",
        "extras",
        "intervals",
        "tails",
    ),
    (
        "initializers",
        "activations",
        "backpropagation",
        "loss_targets",
        "losses",
        "metrics",
        "plotting",
    ),
    ("layers", "optimizers", "data"),
    ("models",),
    ("training",),
    ("diagnostics",),
    ("observers",),
    ("claims", "interop"),
    ("cli", "__main__"),
)

# The same inside a room; what is not listed here needs only to be free of circles.
INSIDE = {
    "training": (
        "fields", "pairing", "task", "state", "refusals", "steps", "loops", "orders", "evaluation",
        "running_norms", "statistics", "evaluated_stats",
        "run", "checkpoints", "fit", "sweep", "search_space",
        "search_trials", "search", "linear_norms", "folding", "widths",
    ),
    "diagnostics": (
        "sizes", "objective", "noise", "curvature", "signal", "landscape", "theory",
        "batch_norm_theory", "residual_theory", "batch_norm_check", "coordinate_check", "kernel",
    ),
    "plotting": (
        "figure", "bands", "curvature", "curves", "images", "signal", "noise_scales",
        "singular_values", "kernels", "width_curves", "confusion", "normalization_axes",
        "contours", "animation", "lecture_legends", "lecture_text", "lecture_panels", "lecture",
        "formulas", "document", "page", "cards",
    ),
    "claims": (
        "claim", "estimates", "draws", "shares", "slopes", "pairs", "report", "stored_results",
        "descriptions", "past_runs", "refuted_claims", "redrawing", "run_page", "runs_index",
        "drawings", "runner", "experiments_list", "keeping", "gallery",
    ),
    "interop": (
        "values", "safetensors_files", "state_dicts", "equal_names", "flattening",
        "feature_orders", "moves", "model_layers", "packed", "matching", "partners", "pytorch",
        "exporting",
    ),
}  # fmt: skip


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, jaxdl\n"
        "from jaxdl import activations, data, diagnostics, initializers, layers, losses\n"
        "from jaxdl import claims, interop, metrics, models, observers, optimizers, training\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_importing_alone_loads_not_even_jax():
    assert run("import sys, jaxdl; print('jax' in sys.modules, len(dir(jaxdl)) > 0)") == (
        "False True\n"
    )


def modules_after(statement):
    return set(run(f"import sys\n{statement}\nprint(*sys.modules)").split())


def test_training_loads_few_packages_beside_flax_and_optax():
    more = modules_after("import jaxdl.training") - modules_after("import flax, optax")
    packages = {name.partition(".")[0] for name in more} - sys.stdlib_module_names
    # More parts of JAX and NumPy may be loaded than Flax and optax need.
    assert packages - {"jax", "numpy"} == {"jaxdl", "jaxtyping"}


def test_training_loads_only_what_most_runs_use():
    loaded = modules_after("import jaxdl.training")
    unused = (
        "flax.nnx", "rich.progress", "urllib.request", "tarfile", "jaxdl.models", "jaxdl.plotting",
        "jaxdl.data.sources", "jaxdl.data.frames", "jaxdl.data.folders", "jaxdl.training.folding",
        "jaxdl.training.widths", "jaxdl.calling.nnx_modules", "jaxdl.training.fit.progress_bar",
    )  # fmt: skip
    assert [name for name in unused if name in loaded] == []
    # They are found where they are used.
    used = "from jaxdl.training import fold, ByWidth; from jaxdl.data import load, from_csv"
    found = modules_after(f"import jaxdl.training\n{used}")
    assert {"jaxdl.training.folding", "jaxdl.data.sources"} <= found


def imports():
    """(importing module, imported module), those inside of functions too."""
    modules = {
        ".".join(("jaxdl", *path.relative_to(ROOT).with_suffix("").parts)): path
        for path in ROOT.rglob("*.py")
    }
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxdl"):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    is_module = inner in modules or f"{inner}.__init__" in modules
                    yield name, inner if is_module else node.module
            elif isinstance(node, ast.Import):
                yield from ((name, a.name) for a in node.names if a.name.startswith("jaxdl."))


def test_a_lower_floor_never_imports_a_higher_one_nor_a_room_the_next():
    order = [room for floor in ROOMS for room in floor]
    wrong = []
    for module, imported in imports():
        here, there = module.split(".")[1], imported.split(".")[1]
        if here == "__init__":
            continue
        assert {here, there} <= set(order), f"{here} or {there} needs a floor"
        if order.index(there) > order.index(here):
            wrong.append((module, imported))
    assert wrong == []


@pytest.mark.parametrize("room", INSIDE)
def test_inside_a_room_imports_go_up_the_list(room):
    order = INSIDE[room]
    wrong = []
    for module, imported in imports():
        if not (module.startswith(f"jaxdl.{room}.") and imported.startswith(f"jaxdl.{room}.")):
            continue
        here, there = module.split(".")[2], imported.split(".")[2]
        if here == "__init__":
            continue
        assert {here, there} <= set(order), f"{here} or {there} needs a place in {room}"
        if order.index(there) > order.index(here):
            wrong.append((module, imported))
    assert wrong == []


def test_no_module_waits_for_another_in_a_circle():
    graph = {}
    for module, imported in imports():
        # A package's file only gathers what its modules have; nobody below may lean on it.
        if not module.endswith("__init__"):
            graph.setdefault(module, set()).add(imported)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_nobody_inside_a_package_imports_the_package_itself():
    wrong = [
        (module, imported)
        for module, imported in imports()
        if module.startswith(f"{imported}.") and not module.endswith("__init__")
    ]
    assert wrong == []


def test_a_files_name_says_one_thing():
    names = Counter(path.stem for path in ROOT.rglob("*.py") if path.stem != "__init__")
    assert [name for name, count in names.items() if count > 1] == []

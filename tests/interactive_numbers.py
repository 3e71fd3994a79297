"""What both tests of the interactive page share: its numbers, node, the library's own model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import diagnostics, models

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "interactive"
STATIC = FOLDER / "static"
sys.path.append(str(FOLDER))

import compute as compute  # noqa: E402
import networks as networks  # noqa: E402
import packing  # noqa: E402


def read(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(text.removeprefix("const SIGNAL = ").removesuffix(";\n"))


def in_node(path, hashes):
    """What the page finds for each address; its own assertions hold."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the page's functions were not run")
    command = ["node", ROOT / "tests" / "interactive_model.js", STATIC / "signal_model.js", path]
    ran = subprocess.run(
        [str(part) for part in command], input=json.dumps(hashes), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def as_model(draws, scale, activation, norm):
    """`models.MLP` with the weights of the page's network, and outputs that are the last a."""
    layers, width = draws.weights.shape[0], draws.weights.shape[1]
    model = models.MLP([width] * (layers + 1), activation=activation, norm=norm)
    variables = model.init(jax.random.key(0), draws.inputs, train=False)
    kernels = [*(scale * draws.weights), jnp.eye(width)]
    params = dict(variables["params"])
    for layer, kernel in enumerate(kernels):
        params[f"dense_{layer}"] = params[f"dense_{layer}"] | {"kernel": kernel}
    return model, variables | {"params": params}


def propagated(draws, scale, activation, norm=None):
    model, variables = as_model(draws, scale, activation, norm)
    return diagnostics.propagation(
        model,
        variables,
        {"inputs": draws.inputs, "targets": draws.gradient},
        loss=lambda outputs, targets: (outputs * targets).sum(axis=-1),
    )


def sizes(text):
    """Unpacked as the page does."""
    places = {letter: place for place, letter in enumerate(packing.LETTERS)}
    codes = np.array([places[letter] for letter in text]).reshape(-1, 3) @ [4096, 64, 1]
    span = packing.HIGHEST - packing.LOWEST
    return np.where(codes, 10 ** (packing.LOWEST + (codes - 1) / (64**3 - 2) * span), 0.0)


def half_widths(text):
    return packing.WIDEST_SPREAD * (np.array([*map(packing.LETTERS.index, text)]) / 63) ** 2


def share(text):
    high, low = map(packing.LETTERS.index, text)
    return (64 * high + low) / 4095

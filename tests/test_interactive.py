"""The interactive page: its numbers against the library, its functions in node, its sliders."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t

from jaxdl import activations, diagnostics, models
from jaxdl.layers import BatchNorm

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "interactive"
STATIC = FOLDER / "static"
sys.path.append(str(FOLDER))

import compute  # noqa: E402
import networks  # noqa: E402
import packing  # noqa: E402

SHARE = 5.0
"""A layer of n units strays from its law by a relative SHARE / n, as in `mean_field`'s docstring:
the relative spread of a mean square after l layers is sqrt(5 l / n) or so."""
MOST_BYTES = 1.5e6


def read(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(text.removeprefix("const SIGNAL = ").removesuffix(";\n"))


@pytest.fixture(scope="module")
def stored():
    return read(STATIC / "signal.js")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("interactive") / "signal.js"
    compute.main(["--preset", "smoke", "--output", str(path)])
    return path


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


@pytest.mark.parametrize(
    ("name", "norm", "variance"),
    [("tanh", "none", 16.0), ("relu", "none", 2.0), ("relu", "BatchNorm", 1.0)],
)
def test_measures_what_propagation_measures(name, norm, variance):
    draws = networks.draw(jax.random.key(0), 4, 64, 16)
    activation, scale = compute.ACTIVATIONS[name][1], variance**0.5
    ours = networks.measure(activation, norm, draws, jnp.float32(scale), (2, 4))
    theirs = propagated(draws, scale, activation, BatchNorm if norm == "BatchNorm" else None)
    rows = [f"dense_{layer}" for layer in range(4)]
    kind = "norm_{}/activation" if norm == "BatchNorm" else "dense_{}/activation"
    after = [kind.format(layer) for layer in range(4)]
    # float32 sums of 1,024 entries in another order, through 4 layers.
    close = {"rtol": 1e-4, "atol": 0}
    for names, value, gradient in ((rows, ours.z, ours.dz), (after, ours.a, ours.da)):
        places = [theirs.names.index(name) for name in names]
        np.testing.assert_allclose(value, theirs.stddev[np.array(places)], **close)
        np.testing.assert_allclose(gradient[2:], theirs.gradient_stddev[np.array(places)], **close)
    places = np.array([theirs.names.index(name) for name in after])
    np.testing.assert_array_equal(ours.dead, theirs.dead_fraction[places])
    # An entry whose slope is the limit to rounding may fall on either side.
    np.testing.assert_allclose(ours.saturated, theirs.saturated_fraction[places], atol=2 / 1024)
    if name == "tanh":
        assert np.all(np.asarray(ours.saturated)[1:] > 0.25)


def test_norms_are_those_of_the_library_and_of_flax():
    z = jax.random.normal(jax.random.key(0), (16, 64)) * 3 + 1
    by_batch, by_layer, by_square = (
        networks.normalizer(norm)(z) for norm in ("BatchNorm", "LayerNorm", "RMSNorm")
    )
    close = {"rtol": 1e-4, "atol": 1e-5}  # the epsilons, over a variance of 9
    np.testing.assert_allclose(by_batch, (z - z.mean(0)) / z.std(0), **close)
    centred = z - z.mean(1, keepdims=True)
    np.testing.assert_allclose(by_layer, centred / z.std(1, keepdims=True), **close)
    root = jnp.sqrt(jnp.mean(z**2, axis=1, keepdims=True))
    np.testing.assert_allclose(by_square, z / root, **close)


def sizes(text):
    """Unpacked as the page does."""
    places = {letter: place for place, letter in enumerate(packing.LETTERS)}
    codes = np.array([places[letter] for letter in text]).reshape(-1, 3) @ [4096, 64, 1]
    span = packing.HIGHEST - packing.LOWEST
    return np.where(codes, 10 ** (packing.LOWEST + (codes - 1) / (64**3 - 2) * span), 0.0)


def half_widths(text):
    return packing.WIDEST_SPREAD * (np.array([*map(packing.LETTERS.index, text)]) / 63) ** 2


def test_packed_sizes_keep_their_precision():
    given = 10.0 ** np.linspace(-59, 39, 1001)
    step = (packing.HIGHEST - packing.LOWEST) / (64**3 - 2)
    unpacked = sizes(packing.sizes(given))
    assert np.max(np.abs(np.log10(unpacked / given))) <= step / 2 * (1 + 1e-6)
    assert sizes(packing.sizes([0.0, 1.0]))[0] == 0
    spread = np.array([0.0, 0.001, 0.1, 3.0])
    widened = half_widths(packing.spreads(spread))
    assert np.all(widened >= spread)
    assert widened[0] == 0
    with pytest.raises(ValueError, match="must lie between 0 and 4095"):
        packing.letters([4096], 2)


def test_a_histogram_row():
    """Of 10 times -1, 30 times 1 and 40 zeros: the mean is 1/4, the deviation sqrt(7) / 4."""
    row = compute.histogram([-1.0] * 10 + [1.0] * 30 + [0.0] * 40, centred=True)
    assert share(row[:2]) == pytest.approx(0.5, abs=1 / 4095)
    of_mean = (2 * share(row[2:4]) - 1) * packing.FARTHEST_MEAN
    assert of_mean == pytest.approx(1 / 7**0.5, abs=packing.FARTHEST_MEAN / 4095)
    expected = ["A"] * compute.BINS
    for value, letter in ((-1.0, packing.LETTERS[21]), (1.0, packing.LETTERS[63])):
        units = (value - 0.25) / (7**0.5 / 4)
        place = (units + compute.REACH) / (2 * compute.REACH) * compute.BINS
        expected[math.floor(place)] = letter
    assert row[4:] == "".join(expected)
    # What lies beyond stands in the outermost bars; of zeros alone no bar is left.
    assert compute.histogram([0.5] * 99 + [1000.0], centred=False)[-1] != "A"
    assert compute.histogram([0.0] * 10, centred=False)[4:] == "A" * compute.BINS


def share(text):
    high, low = map(packing.LETTERS.index, text)
    return (64 * high + low) / 4095


HOLDS = [
    ("relu", "none"), ("leaky_relu", "none"), ("linear", "none"), ("tanh", "none"),
    ("sigmoid", "none"), ("relu", "BatchNorm"), ("tanh", "BatchNorm"), ("linear", "BatchNorm"),
    ("relu", "LayerNorm"), ("tanh", "LayerNorm"), ("relu", "RMSNorm"), ("tanh", "RMSNorm"),
]  # fmt: skip


def departures(stored, name, norm, scale, *, theory_of):
    """By how many decades, at most, a measured size lies outside of its interval around theory.

    The allowance: the law itself is off by SHARE / n a layer in the mean square, and by half of
    that in the logarithm of its root. The interval: Student's t for all checks of this file
    together, one of which chance fails in one of 1,000 files.
    """
    depth, cell = max(stored["depths"]), stored["cells"][f"{name}/{norm}"][scale]
    theory_norm, theory_scale = theory_of
    q, _, chi = map(sizes, stored["cells"][f"{name}/{theory_norm}"][theory_scale]["theory"])
    squares = np.cumprod(chi[::-1])[::-1] / stored["variances"][theory_scale]
    checks = 2 * depth * len(HOLDS) * len(stored["variances"])
    freedom = stored["seeds"] - 1
    wider = t.ppf(1 - 0.001 / (2 * checks), freedom) / t.ppf((1 + stored["level"]) / 2, freedom)
    found = []
    steps = np.arange(1, depth + 1)
    for field, theory, layers in (("z", q, steps), ("dz", np.sqrt(squares), steps[::-1])):
        start = sum(stored["depths"][:-1]) if field == "dz" else 0
        measured, spread = cell[field]
        measured, spread = sizes(measured)[start:], half_widths(spread)[start:]
        allowed = layers * np.log10(1 + SHARE / stored["width"]) / 2 + wider * spread
        known = measured > 0
        off = np.abs(np.log10(measured[known] / theory[known])) - allowed[known]
        found.append(off.max(initial=-np.inf))
    return max(found)


@pytest.mark.parametrize(("name", "norm"), HOLDS)
def test_stored_measurement_agrees_with_theory(stored, name, norm):
    variances = stored["variances"]
    for scale, variance in enumerate(variances):
        assert departures(stored, name, norm, scale, theory_of=(norm, scale)) <= 0, variance
        # The theory of a scale twice as large does not agree, so the allowance is not everything.
        twice = [each for each in range(len(variances)) if variances[each] > 1.99 * variance]
        for other in twice[:1]:
            assert departures(stored, name, norm, scale, theory_of=(norm, other)) > 0, variance


def test_theory_of_another_norm_does_not_agree(stored):
    one = stored["variances"].index(1.0)
    for norm, other in (("BatchNorm", "LayerNorm"), ("LayerNorm", "none"), ("none", "BatchNorm")):
        assert departures(stored, "relu", norm, one, theory_of=(other, one)) > 0, norm


def test_a_norm_divides_the_scale_out(stored):
    """So one scale's histograms stand for all: scales differ by less than networks do."""
    step = (packing.HIGHEST - packing.LOWEST) / (64**3 - 2)
    for norm in ("BatchNorm", "LayerNorm", "RMSNorm"):
        cells = stored["cells"][f"relu/{norm}"]
        one = cells[stored["variances"].index(1.0)]
        for other in cells:
            for field in ("a", "da"):
                difference = np.log10(sizes(one[field][0]) / sizes(other[field][0]))
                assert np.all(np.abs(difference) <= half_widths(one[field][1]) + step)
            assert ("bars" in other) == (other is one)


def test_smoke_unpacks_in_node_to_what_was_measured(smoke):
    data = read(smoke)
    config = compute.PRESETS["smoke"]
    (of,) = in_node(smoke, ["#activation=relu&variance=2&depth=6&norm=BatchNorm"])
    draws = [networks.draw(jax.random.key(seed), 6, config.width, config.examples)
             for seed in range(config.seeds)]  # fmt: skip
    measured = [
        networks.measure(activations.relu, "BatchNorm", each, jnp.float32(2**0.5), config.depths)
        for each in draws
    ]
    for field, start in (("z", 0), ("a", 0), ("dz", 3), ("da", 3)):
        logs = np.mean([np.log10(getattr(each, field)[start:]) for each in measured], axis=0)
        np.testing.assert_allclose(np.log10(of["measured"][field]), logs, atol=1e-3)
    q, a, chi = compute.theory(activations.relu, "BatchNorm", 2.0, config)
    np.testing.assert_allclose(of["theory"]["z"], q, rtol=1e-3)
    np.testing.assert_allclose(of["theory"]["a"], a, rtol=1e-3)
    np.testing.assert_allclose(of["theory"]["da"][0] ** 2, np.prod(chi[1:]), rtol=6e-3)
    rows = of["histograms"]["a"]
    assert [row["layer"] for row in rows] == [1, 3, 6]
    # BatchNorm is symmetric, so half of the entries of a ReLU are 0: by their binomial spread, as
    # if each unit were one entry.
    for row in rows:
        assert row["zeros"] == pytest.approx(0.5, abs=4 * 0.5 / config.width**0.5)
        assert max(row["bars"]) == 1
        assert len(row["bars"]) == compute.BINS
    assert data["seeds"] == config.seeds


@pytest.mark.parametrize(
    ("name", "variance", "depth", "expected"),
    [
        ("sigmoid", 1.0, 10, {"vanishing gradient"}),
        ("relu", 2.0, 10, set()),
        ("linear", 0.25, 20, {"vanishing signal", "vanishing gradient"}),
        ("tanh", 16.0, 5, {"saturated"}),
    ],
)
def test_the_page_says_what_advise_says(stored, name, variance, depth, expected):
    draws = networks.draw(jax.random.key(0), depth, stored["width"], stored["examples"])
    measured = propagated(draws, variance**0.5, compute.ACTIVATIONS[name][1])
    assert {each.problem for each in diagnostics.advise(measured)} == expected
    address = f"#activation={name}&variance={variance}&depth={depth}&norm=none"
    (of,) = in_node(STATIC / "signal.js", [address])
    assert set(of["problems"]) == expected


def test_presets_show_what_their_names_say(stored):
    by_label = {each["label"]: each for each in stored["presets"]}
    keys = ("activation", "variance", "depth", "norm")
    hashes = [
        "#" + "&".join(f"{key}={preset[key]}" for key in keys) for preset in by_label.values()
    ]
    found = dict(zip(by_label, in_node(STATIC / "signal.js", hashes), strict=True))
    problems = {label: set(of["problems"]) for label, of in found.items()}
    for label, of in problems.items():
        if "vanishes" in label:
            assert "vanishing gradient" in of, label
        if "explodes" in label:
            assert "exploding gradient" in of, label
        if "saturated" in label:
            assert "saturated" in of, label
        if "hold" in label or "does not" in label:
            assert of <= {"dead units"}, label
    edge = by_label["tanh at the edge of chaos"]["variance"]
    assert edge == pytest.approx(diagnostics.critical_weight_variance(activations.tanh))


def test_answers_on_the_page_hold(stored):
    """The sigmoid vanishes at every scale; float32 ends within the slider's range."""
    hashes = [
        f"#activation=sigmoid&variance={variance}&depth=50&norm=none"
        for variance in stored["variances"]
    ]
    found = in_node(STATIC / "signal.js", hashes)
    assert all("vanishing gradient" in of["problems"] for of in found)
    assert "cut off" in found[0]["problems"]
    assert "cut off" not in found[-1]["problems"]
    assert diagnostics.critical_weight_variance(activations.sigmoid) > 100
    # Gradients of exactly 0 stand only where theory is below the smallest number.
    below = stored["limits"]["float32"]
    for of in found:
        for measured, theory in zip(of["measured"]["dz"], of["theory"]["dz"], strict=True):
            assert measured > 0 or theory < 1e3 * below


def test_stored_file(stored):
    assert (STATIC / "signal.js").stat().st_size <= MOST_BYTES
    assert set(stored["made"]["versions"]) >= {"jaxdl", "jax", "flax", "numpy", "python"}
    config = compute.PRESETS["default"]
    assert stored["variances"] == [*config.scales]
    assert stored["depths"] == [*config.depths]
    assert len(stored["cells"]) == len(compute.ACTIVATIONS) * len(networks.NORMS)
    assert stored["format"] == packing.FORMAT | {"bins": compute.BINS, "reach": compute.REACH}
    # Another CPU differs by rounding, which chaotic networks enlarge; theory does not.
    for key, cells in stored["cells"].items():
        name, norm = key.split("/")
        for scale in (0, 6):
            new = compute.theory(compute.ACTIVATIONS[name][1], norm, config.scales[scale], config)
            for old, each in zip(cells[scale]["theory"], new, strict=True):
                np.testing.assert_allclose(sizes(old), each, rtol=1e-3)


def test_page_needs_no_other_host_and_has_all_its_parts():
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    script = (STATIC / "page.js").read_text(encoding="utf-8")
    for path in (FOLDER / "page.html", *STATIC.glob("*")):
        assert "http" not in path.read_text(encoding="utf-8"), path
    asked = set(re.findall(r'\bat\("([a-z-]+)"\)', script))
    assert asked
    assert {f"sp-{name}" for name in asked} <= set(re.findall(r'id="([^"]+)"', page))
    style = (STATIC / "page.css").read_text(encoding="utf-8")
    dark = re.findall(r'data-theme="(?:dark"\]|light"\]\)) #signal-page \{(.*?)\}', style, re.S)
    assert len(dark) == 2
    assert dark[0].split() == dark[1].split()  # by the reader's choice, and by the system's


def test_scripts_parse():
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the scripts were not parsed")
    for path in STATIC.glob("*.js"):
        subprocess.run(["node", "--check", str(path)], check=True, capture_output=True)


DRIVER = """
const state = () => ({
  says: document.getElementById("sp-says").textContent,
  line: document.querySelector("#sp-gradient .sp-gradient").getAttribute("d"),
  hash: location.hash,
});
const move = (name, value) => {
  const control = document.getElementById(`sp-${name}`);
  control.value = value;
  control.dispatchEvent(new Event("input", { bubbles: true }));
  return state();
};
const seen = [state(), move("scale", 0), move("deep", 1), move("norm", "BatchNorm")];
document.querySelector("#sp-presets button").click();
seen.push(state());
const out = document.createElement("pre");
out.id = "seen";
out.textContent = JSON.stringify(seen);
document.body.append(out);
"""


def test_moving_a_slider_changes_the_curves(tmp_path, stored):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is installed: the controls were not moved")
    scripts = "".join(
        f'<script src="{(STATIC / name).as_uri()}"></script>'
        for name in ("signal.js", "signal_model.js", "page.js")
    )
    fragment = (FOLDER / "page.html").read_text(encoding="utf-8")
    page = tmp_path / "page.html"
    page.write_text(
        f"<meta charset='utf-8'><body>{fragment}{scripts}<script>{DRIVER}</script>", "utf-8"
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/user"]
    ran = subprocess.run(
        [browser, *options, "--dump-dom", page.as_uri()], capture_output=True, timeout=120
    )
    text = re.search(r'<pre id="seen">(.*?)</pre>', ran.stdout.decode())
    assert text is not None, ran.stderr.decode()[-2000:]
    seen = json.loads(text[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert len({each["line"] for each in seen}) == len(seen)
    assert seen[0]["says"].startswith("Signal and gradient hold")
    assert "The signal vanishes" in seen[1]["says"]
    assert "gain=0.5&" in seen[1]["hash"]
    assert f"depth={stored['depths'][1]}&" in seen[2]["hash"]
    assert "norm=BatchNorm" in seen[3]["hash"]
    assert "The gradient vanishes" in seen[4]["says"]

"""The interactive page: its functions in node, its sentences, its controls in a browser."""

import json
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interactive_numbers import FOLDER, STATIC, compute, in_node, networks, propagated, read

from jaxdl import activations, diagnostics


@pytest.fixture(scope="module")
def stored():
    return read(STATIC / "signal.js")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("interactive") / "signal.js"
    compute.main(["--preset", "smoke", "--output", str(path)])
    return path


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
    of_norms = [
        "#activation=sigmoid&variance=1&norm=" + norm for norm in ("LayerNorm", "BatchNorm")
    ]
    by_layer, by_batch = in_node(STATIC / "signal.js", of_norms)
    assert "vanishing gradient" in by_layer["problems"]
    assert by_batch["problems"] == []
    # Gradients of exactly 0 stand only where theory is below the smallest number.
    below = stored["limits"]["float32"]
    for of in found:
        for measured, theory in zip(of["measured"]["dz"], of["theory"]["dz"], strict=True):
            assert measured > 0 or theory < 1e3 * below


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

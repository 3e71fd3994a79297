"""What results say of themselves: one line without arrays, and HTML that any page can hold."""

import copy
import inspect
import pickle
from html.parser import HTMLParser
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data, diagnostics, losses, models, optimizers, plotting, showing, training

# Longer than any of the reprs below, shorter than two lines of an array each.
ONE_LINE = 200
DATASET = data.split(data.load("digits"), key=jax.random.key(0))
SPLIT = DATASET.train
BATCH = {"inputs": jnp.asarray(SPLIT.inputs[:8]), "targets": jnp.asarray(SPLIT.targets[:8])}
MODEL = models.MLP([4, 10])
GOAL = {"loss": losses.cross_entropy}
OPTIMIZER = optimizers.adam(1e-3)


def state_of(key):
    return training.init_state(key, MODEL, OPTIMIZER, BATCH["inputs"])


def measure(key):
    return diagnostics.propagation(MODEL, state_of(key).variables, BATCH, **GOAL)


def instruments(variables):
    """What is measured beyond signal and gradient, and predicted."""
    given = (MODEL, variables, BATCH)
    words = models.Transformer(vocabulary=4, features=4, layers=1, heads=1)
    tokens = {"inputs": jnp.zeros((2, 3), jnp.int32)}
    of_words = words.init(jax.random.key(0), tokens["inputs"], train=False)
    noise = diagnostics.gradient_noise(*given, **GOAL)
    return {
        "sharpness": diagnostics.sharpness(*given, **GOAL),
        "spectrum": diagnostics.curvature_spectrum(*given, steps=4, probes=2, **GOAL),
        "trace": diagnostics.hessian_trace(*given, probes=2, **GOAL),
        "noise": noise,
        "average": diagnostics.average_noise(noise),
        "signal_to_noise": diagnostics.signal_to_noise(*given, **GOAL),
        "jacobian": diagnostics.jacobian_spectrum(*given),
        "jacobian_theory": diagnostics.jacobian_moments(jnp.tanh, weight_variance=1.0, depth=3),
        "kernel": diagnostics.tangent_kernel(*given),
        "stream": diagnostics.residual_stream(jnp.tanh, blocks=3),
        "attention": diagnostics.attention(words, of_words, tokens),
        "coordinates": diagnostics.coordinate_check(
            lambda width: models.MLP([width, 10]), [4, 8], BATCH,
            lambda found: found.optimizer(optimizers.sgd, 0.1), steps=1, seeds=2, **GOAL,
        ),
        "parametrization": training.parametrization(
            "maximal_update", models.MLP([8, 10]), models.MLP([4, 10]), BATCH["inputs"]
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def results():
    state = state_of(jax.random.key(0))
    counted = diagnostics.histograms(MODEL, state.variables, BATCH, **GOAL)
    rates = diagnostics.rate_range(
        MODEL, SPLIT, optimizers.sgd, batch_size=8, key=jax.random.key(0), **GOAL
    )
    result = training.fit(
        MODEL, DATASET, OPTIMIZER, epochs=1, batch_size=600, key=jax.random.key(0), **GOAL
    )
    measured = measure(jax.random.key(0))
    path = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, 2 * leaf]), state.params)
    return {
        "result": result,
        "history": result.history,
        "state": state,
        "propagation": measured,
        "findings": diagnostics.Findings([], "3 rows"),
        "summary": diagnostics.summary(MODEL, BATCH["inputs"]),
        "histograms": counted,
        "histogram": counted.activations,
        "graph": diagnostics.graph(MODEL, BATCH["inputs"]),
        "rates": rates,
        "curve": rates.curve,
        "theory": diagnostics.mean_field(
            jnp.tanh, weight_variance=1.0, bias_variance=0.0, depth=300
        ),
        "directions": diagnostics.principal_directions(path, count=1),
        "landscape": plotting.Landscape(np.arange(9.0), np.arange(7.0), np.ones((9, 7))),
        "arrays": SPLIT,
        "scaler": data.Scaler(np.ones(64), np.ones(64)),
        **instruments(state.variables),
    }


SHOWN = (
    "result", "history", "propagation", "findings", "summary", "histograms", "rates", "sharpness",
    "spectrum", "trace", "noise", "signal_to_noise", "jacobian", "kernel", "attention",
    "coordinates", "parametrization",
)  # fmt: skip
WORDS = {
    "result": "1 epoch, 3 steps: loss ",
    "history": "1 epoch, 3 steps: loss ",
    "state": "step 0; numbers: params 310, opt_state 623",  # twice 310, two counts and a rate
    "propagation": "3 rows: loss ",
    "findings": "healthy",
    "summary": "3 rows: 310 parameters, 4.74 k FLOPs forward",  # 2 * 8 * (64 * 4 + 4 * 10)
    "histograms": "3 rows: activations Histogram(counts (3, 50) int32)",
    "histogram": "counts (3, 50) int32",
    "graph": "5 nodes, 4 edges",
    "rates": "100 rates, 1e-06 to 10",
    "curve": "100 rates: 1e-06 to 10",
    "theory": "300 layers: preactivation_variance ",
    "directions": "1 direction: 100 % of the path",
    "landscape": "9 x 7 heights",
    "arrays": "inputs (1257, 8, 8, 1) float32, targets (1257,) int32",
    "scaler": "mean (64,) float64, std (64,) float64",
    "sharpness": " of all, residual ",
    "spectrum": "1 group, 2 probes: ",
    "trace": "all ",
    "noise": "1 group: noise scale in examples: all ",
    "average": "noise scale in examples: ",
    "signal_to_noise": "2 groups: median |mean| / s.d.: dense_0 ",
    "jacobian": "output by input, 10 x 64, 8 examples: largest ",
    "jacobian_theory": "3 layers: mean_square ",
    "kernel": "8 x 8 examples, 10 outputs: mean of the diagonal ",
    "stream": "3 blocks: second_moment 1 to ",
    "attention": "1 attention: largest logit ",
    "coordinates": "maximal_update, widths 4 to 8, 3 rows; ",
    "parametrization": "maximal_update, MLP, 2 times as wide; 4 parameters: ",
}


@pytest.mark.parametrize("name", WORDS)
def test_a_result_is_a_line_without_arrays(results, name):
    line = repr(results[name])
    assert WORDS[name] in line
    assert len(line) < ONE_LINE
    assert "\n" not in line
    assert "array(" not in line
    assert "Array(" not in line


@pytest.mark.parametrize("name", SHOWN)
def test_a_result_shows_itself_in_a_notebook(results, name):
    page = results[name]._repr_html_()
    ElementTree.fromstring(page)  # every tag is closed, every text escaped
    for barred in ("<script", "http", "url(", "background", "color:", "black", "white"):
        assert barred not in page
    if name != "findings":
        assert len(results[name].names if hasattr(results[name], "names") else [0]) < page.count(
            "<tr>"
        )


def test_every_result_class_is_looked_at(results):
    """A public class of these rooms that holds arrays has a repr of its own."""
    rooms = (diagnostics, training, plotting, data)
    classes = {
        each
        for room in rooms
        for each in map(room.__dict__.get, room.__all__)
        if inspect.isclass(each) and "ndarray" in str(getattr(each, "__annotations__", ""))
    }
    seen = {type(result) for result in results.values()}
    assert classes
    assert classes <= seen


def with_leaves(tree, make):
    """A copy whose arrays are replaced, as `jax.tree.map` does where nothing checks types."""
    other = copy.copy(tree)
    for name, value in vars(tree).items():
        if all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(value)):
            object.__setattr__(other, name, jax.tree.map(make, value))
    return other


@pytest.mark.parametrize("name", ["propagation", "state", "histogram", "arrays"])
def test_a_tree_of_anything_has_a_repr(results, name):
    """A structure's leaves may be shapes, tuples or nothing; traced ones have no numbers yet."""
    tree = results[name]
    makers = (jax.typeof, np.shape, np.size, lambda leaf: None)
    lines = [repr(with_leaves(tree, make)) for make in makers]

    def program(traced):
        lines.append(repr(traced))
        return traced

    jax.jit(program)(tree)
    assert all(line.startswith(type(tree).__name__) for line in lines)
    assert all(len(line) < ONE_LINE for line in lines)
    assert len(lines) == 5


def test_an_event_says_where_the_run_stands():
    told = []
    training.fit(
        MODEL, DATASET, OPTIMIZER, epochs=1, batch_size=600, key=jax.random.key(0), **GOAL,
        observers=[lambda event: told.append(repr(event))],
    )  # fmt: skip
    (line,) = told
    assert line.startswith("Event(epoch 1 of 1, step 3 of 3, measured=EpochMeasurements(loss ")
    assert len(line) < ONE_LINE


def test_runs_of_a_map_are_counted():
    keys = jax.random.split(jax.random.key(0), 3)
    assert "3 rows, mean of 3 runs: loss " in repr(jax.vmap(measure)(keys))
    assert "step 0 to 0 in 3 runs; numbers: params 930" in repr(jax.vmap(state_of)(keys))


def test_histograms_of_a_map_are_those_of_the_first_run():
    keys = jax.random.split(jax.random.key(0), 2)

    def count(key):
        return diagnostics.histograms(MODEL, state_of(key).variables, BATCH)

    first, both = (
        ElementTree.fromstring(f._repr_html_()) for f in (count(keys[0]), jax.vmap(count)(keys))
    )
    assert [row[0].text for row in first.iter("tr")] == [row[0].text for row in both.iter("tr")]
    assert "".join(both.itertext()).strip().endswith("The first run's.")
    assert "first run" not in "".join(first.itertext())


def test_two_hundred_layers_are_cut_in_the_middle():
    sizes = diagnostics.summary(models.MLP([4] * 100), jax.ShapeDtypeStruct((1, 4), "float32"))
    names = sizes.names
    assert len(names) == 199
    rows = ElementTree.fromstring(sizes._repr_html_()).findall("table/tbody/tr")
    first = [row[0].text for row in rows]
    # 199 layers and the total are 200 rows, of which 40 are shown.
    assert first == [*names[:20], "... 160 more rows, not shown here", *names[-19:], "total"]


def test_not_finite_is_said(results):
    spread = np.array([1.0, np.inf, np.nan], np.float32)
    broken = results["propagation"].replace(stddev=spread, loss=jnp.float32(np.nan))
    assert "loss nan, s.d. 1 to nan" in repr(broken)
    assert "<td" in broken._repr_html_()


def points_of(markup):
    lines = ElementTree.fromstring(markup).findall("polyline")
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        for line in lines
    ]


def test_a_curve_fills_its_height_and_leaves_gaps():
    first, second = points_of(showing.curve([0.0, 4.0, np.nan, 2.0, 1.0]).markup)
    # 120 x 24 pixels with an edge of 2: x from 2 to 118, y from 22 (lowest) to 2 (highest).
    assert first == [(2, 22), (31, 2)]
    assert second == [(89, 12), (118, 17)]


def test_a_curve_of_extremes_and_of_many_points():
    huge = np.finfo(np.float64).max
    assert points_of(showing.curve([-huge, 0.0, huge]).markup) == [[(2, 22), (60, 12), (118, 2)]]
    (line,) = points_of(showing.curve(np.arange(100_000)).markup)
    assert len(line) == 120
    assert (line[0], line[-1]) == ((2, 22), (118, 2))
    (flat,) = points_of(showing.curve([3.0, 3.0]).markup)
    assert {y for _, y in flat} == {12}
    assert showing.curve([np.nan, np.inf]).markup == ""
    assert "<circle" in showing.curve([1.0]).markup


class Texts(HTMLParser):
    """The texts of a page, and its tags."""

    def __init__(self):
        super().__init__()
        self.texts, self.tags = [], set()

    def handle_data(self, data):
        self.texts.append(data)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)


def test_markup_in_names_stays_text():
    evil = "</td><script>alert('&amp;')</script>"
    page = Texts()
    page.feed(showing.html_table(evil, [evil], [[evil]], [evil]))
    assert page.texts.count(evil) == 4
    assert "script" not in page.tags


def test_many_values_are_counted():
    line = showing.named({**{f"m{i}": "1" for i in range(49)}, "loss": "2"})
    assert line == "loss 2, m0 1, m1 1, m2 1, m3 1, m4 1 and 44 more"


def test_a_figure_is_a_picture_once_and_can_be_copied():
    figure = plotting.new_figure(2, 1)
    for each in (figure, copy.deepcopy(figure), pickle.loads(pickle.dumps(figure))):
        assert each._repr_png_().startswith(b"\x89PNG")

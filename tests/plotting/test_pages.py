"""HTML pages: what stands where, what is escaped, formulas without a script."""

import re
import sys
import xml.etree.ElementTree

import pytest

from jaxdl.plotting.cards import Card, gallery_page
from jaxdl.plotting.document import STYLE
from jaxdl.plotting.formulas import with_formulas
from jaxdl.plotting.page import html_page

ROWS = [
    ("One is < two", "the number $n$; one seed", "1", "at most 2", "holds"),
    ("A label", "", "3", "0 to 2", "refuted"),
]


def page(**changed):
    given = {"meaning": "It falls.", "text": "Prose.\n\n  a\n  b", "facts": {"Data": "digits"}}
    return html_page("toy", "Is 1 < 2?", ROWS, "A note.", b"PNG", [b"GIF"], **(given | changed))


def test_a_reader_meets_the_parts_in_order():
    made = page(files={"figure.svg": "the figure", "talk.svg": "at lecture size"})
    parts = [
        "<h1>toy</h1>",
        "Is 1 &lt; 2?</p>",
        "It falls.</p>",
        '<a href="figure.svg"><img',
        ">at lecture size</a>",
        "data:image/gif",
        "<b>One is &lt; two.</b>",
        "A note.",
        "<p>Prose.</p>",
        "<pre>  a\n  b</pre>",
        "<dt>Data</dt><dd>Digits</dd>",
    ]
    assert all(made.count(part) == 1 for part in parts)
    assert sorted(parts, key=made.index) == parts
    assert '<meta name="description" content="Is 1 &lt; 2?">' in made


def test_what_was_measured_stands_below_what_it_means():
    made = page()
    assert "<span class=quantity>the number " in made
    assert "<tr class=refuted><td><b>A label.</b></td><td>3</td><td>0 to 2</td>" in made
    assert made.count("class=quantity") == 1


def test_parts_that_are_not_there_leave_nothing():
    made = html_page("toy", "A toy.", ROWS, "", facts={"Data": ""})
    assert not [tag for tag in ("<img", "<dl", "class=meaning", "class=text") if tag in made]


def test_a_page_loads_nothing_and_runs_nothing():
    made = page(meaning=r"The rate $\eta$.")
    # The namespace of MathML is a name, not an address.
    made = made.replace("http://www.w3.org/1998/Math/MathML", "")
    assert not re.findall(r"<script|<link|https?://|@import|url\(", made)


def test_light_and_dark_give_every_colour():
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.S)[:2]
    named = {colours: set(re.findall(r"(--\w+):", colours)) for colours in (light, dark)}
    assert named[light] == named[dark]
    used = set(re.findall(r"var\((--\w+)\)", STYLE))
    assert used == named[light]
    assert contrasts(light) >= 4.5
    assert contrasts(dark) >= 4.5


def contrasts(colours):
    """The least contrast of a text's colour on the paper and in a box (WCAG 2.1, 1.4.3)."""
    of = dict(re.findall(r"--(\w+): #(\w+)", colours))

    def luminance(name):
        digits = of[name] if len(of[name]) == 6 else "".join(2 * digit for digit in of[name])
        linear = []
        for place in (0, 2, 4):
            value = int(digits[place : place + 2], 16) / 255
            linear.append(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    texts = ("ink", "faint", "link", "holds", "undecided", "refuted")
    pairs = [(text, ground) for text in texts for ground in ("paper", "box")]
    found = []
    for pair in pairs:
        low, high = sorted(map(luminance, pair))
        found.append((high + 0.05) / (low + 0.05))
    return min(found)


def test_formulas_become_mathml():
    pytest.importorskip("latex2mathml")
    made = with_formulas(r"a rate $\eta < \frac{1}{\beta}$ & `more` $$x^2$$")
    assert "a rate <math" in made
    assert "&amp; <code>more</code> <math" in made
    assert 'display="block"' in made
    for formula in re.findall(r"<math.*?</math>", made):
        xml.etree.ElementTree.fromstring(formula)
    assert "$" not in made


@pytest.mark.parametrize(
    "text", ["from $3 to $5", "a $ b $ c", "5 $", r"a lone \frac{1}{2}"]
)  # fmt: skip
def test_a_dollar_is_not_always_a_formula(text):
    assert with_formulas(text) == text


def test_a_formula_that_cannot_be_read_stays(monkeypatch):
    assert with_formulas("see $x^$") == "see <code>$x^$</code>"
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)
    assert with_formulas("a $x < 1$, b") == "a <code>$x &lt; 1$</code>, b"


def test_a_gallery_links_other_pages_and_folds_what_holds():
    card = Card("toy", "A toy.", "1 holds", "toy/index.html", claims=ROWS)
    made = gallery_page("All", "One.", {"Toys": ("", [card])}, {"index.html": "every run"})
    assert '<a href="index.html">every run</a>' in made
    assert made.index("Refuted: 1 claim") < made.index("<details>") < made.index("One is &lt; two")

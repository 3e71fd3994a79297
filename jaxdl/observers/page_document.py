"""The page around a run's figures: its head, its style for light and dark, its own renewal."""

import html
from typing import NamedTuple

STYLE = """
:root { color-scheme: light dark; --back: #fff; --card: #f6f6f4; --text: #1b1b1b; --soft: #595959;
  --rule: #d4d4d0; --c0: #0b57a4; --c1: #a34000; --c2: #11691d; --c3: #7b2d8e; --c4: #8a5a00;
  --c5: #5a5a5a; }
@media (prefers-color-scheme: dark) { :root { --back: #16181c; --card: #1f2227; --text: #e8e8e6;
  --soft: #a6a8ac; --rule: #3a3e45; --c0: #6cb6ff; --c1: #ffa657; --c2: #7ee787; --c3: #d8a8ff;
  --c4: #f0d060; --c5: #b8bcc2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; font: 16px/1.45 sans-serif;
  background: var(--back); color: var(--text); }
h1 { font-size: 1.3rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.6rem 0 .5rem; }
p, ul { margin: .3rem 0; } ul { padding-left: 1.2rem; }
li, dd { overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: .85rem; }
#state { font-weight: bold; } #state.bad { color: var(--c1); } #state.good { color: var(--c2); }
progress { width: 100%; height: .8rem; accent-color: var(--c0); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .5rem;
  margin: .6rem 0; }
dl div { background: var(--card); padding: .4rem .6rem; border-radius: 6px; }
dt { color: var(--soft); font-size: .85rem; } dd { margin: 0; font-size: 1.15rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
  gap: .7rem; }
figure { margin: 0; padding: .5rem; background: var(--card); border-radius: 6px; }
figcaption { font-weight: bold; font-size: .9rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; font-size: 12px; }
svg text { fill: var(--soft); } .end { text-anchor: end; } .middle { text-anchor: middle; }
polyline { fill: none; stroke-width: 2; } .faint { stroke-width: 1; opacity: .55; }
.axis { fill: none; stroke: var(--soft); } .grid path.grid { fill: none; stroke: var(--rule); }
summary { cursor: pointer; padding: .3rem 0; } .wide { overflow-x: auto; font-size: .85rem; }
""" + "".join(
    f".c{k} {{ stroke: var(--c{k}); }} .f{k} {{ fill: var(--c{k}); }} "
    f"svg .t{k} {{ fill: var(--c{k}); }}\n"
    for k in range(6)
)

# Opened tables stay open when the page renews itself. A page that nobody looks at waits.
SCRIPT = """
(function () {
  var kept = {}, page = document.body.dataset;
  try { kept = JSON.parse(sessionStorage.getItem("open") || "{}"); } catch (error) {}
  document.querySelectorAll("details").forEach(function (part) {
    part.open = !!kept[part.id];
    part.addEventListener("toggle", function () {
      kept[part.id] = part.open;
      try { sessionStorage.setItem("open", JSON.stringify(kept)); } catch (error) {}
    });
  });
  if (!page.gap) return;
  var gap = +page.gap, age = Date.now() / 1000 - page.written;
  var state = document.getElementById("state");
  var late = age > 10 * gap + 60;
  if (late) {
    state.className = "bad";
    state.textContent = "No news since " + page.at + ": the run may have been killed.";
  }
  function renew() {
    if (!document.hidden) return location.reload();
    document.addEventListener("visibilitychange", function () { location.reload(); });
  }
  setTimeout(renew, 1000 * (late ? 60 : Math.min(60, Math.max(2, gap))));
})();
"""


class Head(NamedTuple):
    """What the top of a page says.

    Attributes:
        title: of the run.
        state: where it stands, a sentence.
        mood: "" while it lasts, "good" if it has ended, "bad" if something else ended it.
        done, total: epochs.
        facts: numbers by name.
        written: when, in seconds since 1970.
        at: the same as a text.
        gap: the seconds after which the page is written again; None if it is not.
    """

    title: str
    state: str
    mood: str
    done: int
    total: int
    facts: dict[str, str]
    written: float
    at: str
    gap: float | None


def document(head: Head, body: str) -> str:
    """The whole page. It needs no other file.

    Example:
        >>> head = Head("toy", "Running", "", 1, 5, {"loss": "0.5"}, 0.0, "12:00:00", 2.0)
        >>> page = document(head, "")
        >>> "<dd>0.5</dd>" in page, page.count("http-equiv")
        (True, 1)
    """
    facts = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in head.facts.items()
    )
    gap = "" if head.gap is None else f' data-gap="{head.gap:.3g}"'
    # Where scripts do not run, the page renews itself all the same.
    renewal = (
        "" if head.gap is None else '<noscript><meta http-equiv="refresh" content="5"></noscript>'
    )
    mood = f" class={head.mood}" if head.mood else ""
    title = html.escape(head.title)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">{renewal}
<title>{head.done}/{head.total} {title}</title>
<style>{STYLE}</style></head>
<body data-written="{head.written:.0f}" data-at="{html.escape(head.at)}"{gap}>
<h1>{title}</h1>
<p id=state{mood} role=status>{html.escape(head.state)}</p>
<progress max={head.total} value={head.done} aria-label="epochs done"></progress>
<dl>{facts}</dl>
{body}
<script>{SCRIPT}</script>
</body></html>
"""

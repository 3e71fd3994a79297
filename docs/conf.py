"""The site of the project: `sphinx-build docs build/site`. Any warning is an error.

It is whole without a network: MathJax and the search stand in the built folder.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

# Cells are executed on the CPU: their numbers are checked to the rounding.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# With any other backend, plt.show() of a cell leaves no figure in the page.
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"

project = "jaxdl"
copyright = "the jaxdl authors"
exclude_patterns = ["examples", "gallery/**", "extensions", "interactive/**"]
extensions = [
    "myst_nb",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_design",
    "sphinx_copybutton",
    "reference",  # pages of every public name, from the docstrings
    "experiment_pages",  # pages of every experiment, from docs/gallery
    "links",  # every address in the built pages leads somewhere
]

nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!jaxdl\.).*")]  # the annotations of signatures
suppress_warnings: list[str] = []
show_warning_types = True

myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
# A page that did not change is not executed again, though the library may have changed: before you
# trust a page, remove the folder `.jupyter_cache` beside the built site. A fresh clone has none.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_merge_streams = True
nb_code_prompt_show = "Show the answer's code"  # cells are folded in exercises only
nb_code_prompt_hide = "Hide the answer's code"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # from no other host
mathjax3_config = {"options": {"enableMenu": False}}

html_theme = "furo"
html_title = "jaxdl"
html_static_path = ["static", "interactive/static"]
html_css_files = ["jaxdl.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_exclude = ".linenos, .gp, .go"
python_maximum_signature_line_length = 88
python_display_short_literal_types = True
add_module_names = False

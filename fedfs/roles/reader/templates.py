"""Pages from templates that lie beside the modules which fill them.

A page in HTML is one file: style, script and pictures are inside, and nothing is fetched.
"""

from collections.abc import Callable
from importlib import resources

import jinja2
from markupsafe import Markup, escape

Templates = jinja2.Environment

_ABSENT = "–"  # noqa: RUF001  a dash
_NUMBERS = {
    "score": "{:.3f}",
    "gain": "{:+.3f}",
    "distance": "{:.1f}",
    "count": "{:,}",
    "share": "{:.0%}",
}
"""Filter -> the format of a number; what is None becomes a dash."""


def templates_of(package: str) -> Templates:
    """Return the templates of a package; they escape all text and fail on unknown names."""
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: read_part(package, name)),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update({name: _filter(number) for name, number in _NUMBERS.items()})
    made.filters["cell"] = _cell
    return made


def read_part(package: str, name: str) -> str:
    """Return a file of a package: a template, or a style or script of ours."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def as_markup(text: str) -> Markup:
    """Return text that a template takes as it is; never of what comes from elsewhere."""
    return Markup(text)  # noqa: S704  see above


def _cell(value: object) -> Markup:
    """Return a value for a cell of a table of Markdown, where a bar would end it."""
    text = _ABSENT if value is None else str(value)
    return Markup(str(escape(text)).replace("|", "&#124;"))  # noqa: S704  it is escaped


def _filter(number: str) -> Callable[[float | None], str]:
    return lambda value: _ABSENT if value is None else number.format(value)

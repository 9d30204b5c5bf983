"""The HTML pages of the package: templates beside this file, rendered into single self-contained files.

Everything a page shows is escaped (class names are a user's text), and its content security policy forbids the network.
"""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["render"]


def render(template: str, **values: object) -> str:
    """Fill `template` with `values`; a name the template uses and nobody gave is an error."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    """Return the one environment: it keeps templates compiled, of which a report fills the same hundreds of times."""
    environment = Environment(
        loader=PackageLoader("manyseg", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    environment.filters["count"] = _count
    return environment


def _count(value: float) -> str:
    """Write a count with thin spaces between thousands."""
    return f"{int(value):,}".replace(",", "\u2009")

"""The methods by the names that recipes use. Adding one is a file, its test, and a line here.

A method of another package needs no line: a recipe names it as `package.module:Class`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from manyseg.errors import UserError

if TYPE_CHECKING:
    from manyseg.methods.base import Method

__all__ = ["METHODS", "find_method"]

METHODS = {
    "multihead": "manyseg.methods.baselines:MultiHead",
    "union": "manyseg.methods.baselines:Union",
    "manual": "manyseg.methods.baselines:Manual",
    "uniseg": "manyseg.methods.uniseg:UniSeg",
    "autouniseg": "manyseg.methods.autouniseg:AutoUniSeg",
    "unified_nodes": "manyseg.methods.unified_nodes:UnifiedNodes",
    "htss": "manyseg.methods.htss:HTSS",
    "lmseg": "manyseg.methods.lmseg:LMSeg",
    "joint": "manyseg.methods.joint:Joint",
}
"""Where the class of each method is; it is imported when a recipe names it."""


def find_method(name: str) -> type[Method]:
    """Return the class of a method by its name in METHODS, or as `package.module:Class` of another package.

    This imports, so runs, that package's code. Raises UserError if there is no such module or class, or if it is not a
    `Method`.
    """
    module, _, attribute = METHODS.get(name, name).partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as e:
        raise UserError(
            f"method '{name}': there is no module '{e.name}'; install its package, or correct the name"
        ) from e
    except AttributeError as e:
        raise UserError(f"method '{name}': module '{module}' has no '{attribute}'; correct the name") from e
    except (ImportError, SyntaxError) as e:
        raise UserError(
            f"method '{name}': module '{module}' cannot be imported ({' '.join(str(e).split())}); mend it"
        ) from e
    from manyseg.methods.base import Method

    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"method '{name}' is not a class derived from manyseg.Method; see docs/adding.md")
    return found

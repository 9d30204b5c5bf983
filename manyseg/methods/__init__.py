"""The methods by the names that recipes use. Adding one is a file, its test, and a line here.

A method of another package needs no line: a recipe names it as `package.module:Class`.
"""

from importlib import import_module

from manyseg.errors import UserError
from manyseg.methods.autouniseg import AutoUniSeg
from manyseg.methods.base import Method, PixelMethod, StagePlan
from manyseg.methods.baselines import Manual, MultiHead, Union
from manyseg.methods.htss import HTSS
from manyseg.methods.lmseg import LMSeg
from manyseg.methods.unified_nodes import UnifiedNodes
from manyseg.methods.uniseg import UniSeg

__all__ = ["METHODS", "Method", "PixelMethod", "StagePlan", "import_method"]

METHODS: dict[str, type[Method]] = {
    "multihead": MultiHead,
    "union": Union,
    "manual": Manual,
    "uniseg": UniSeg,
    "autouniseg": AutoUniSeg,
    "unified_nodes": UnifiedNodes,
    "htss": HTSS,
    "lmseg": LMSeg,
}


def import_method(name: str) -> type[Method]:
    """Return the method class that `package.module:Class` names; this imports, so runs, that package's code.

    Raises UserError if there is no such module or class, or if it is not a `Method`.
    """
    module, _, attribute = name.partition(":")
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
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"method '{name}' is not a class derived from manyseg.Method; see docs/adding.md")
    return found

"""What `make docs` does beside rendering the pages: API pages, and links that leave docs/.

Every folder and module of the package gets a page, built from its docstrings. A link from a page to a file of the
repository that is outside docs/ works on a git host as it stands; in the site it leads to that file on the host.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(\]\()(\.\./[^)\s]*)(\))")


def modules() -> list[str]:
    """Return the importable names that get a page each: the package itself, its folders and the modules in it."""
    inside = [p for p in sorted((ROOT / "manyseg").iterdir()) if not p.name.startswith(("_", "."))]
    return ["manyseg", *(f"manyseg.{p.stem}" for p in inside if p.is_dir() or p.suffix == ".py")]


def api_page(module: str) -> str:
    """Return the page of a module or, with all modules in it, of a folder, as Markdown."""
    whole = "" if module == "manyseg" else "\n    options:\n      show_submodules: true"
    return f"# {module}\n\n::: {module}{whole}\n"


def on_config(config: MkDocsConfig) -> None:
    """Put the API pages at the end of the navigation."""
    config.nav = [*(config.nav or []), {"API": [f"api/{module}.md" for module in modules()]}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the API pages."""
    for module in modules():
        files.append(File.generated(config, f"api/{module}.md", content=api_page(module)))


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files outside docs/ to the host of the repository; raises if there is no such file."""

    def replace(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), found[2]))
        file = path.partition("#")[0]
        if not (ROOT / file).exists():
            raise FileNotFoundError(f"{page.file.src_uri}: the link {found[2]} leads to no file")
        kind = "tree" if (ROOT / file).is_dir() else "blob"
        return f"{found[1]}{str(config.repo_url).rstrip('/')}/{kind}/main/{path}{found[3]}"

    return LINK.sub(replace, markdown)

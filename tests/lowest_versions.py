"""Print a constraints file for pip that holds every dependency of the package at the lowest version promised.

    python tests/lowest_versions.py > lowest.txt

`make test-lowest` installs the package under it. What is needed only for development and tests is left at its newest.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lowest(requirements):
    """Return `name==version` for every requirement; each must have a lower bound, or one version."""
    out = []
    for requirement in requirements:
        found = re.fullmatch(r"([\w.-]+)(?:>=|==)([\w.]+)", requirement)
        if not found:
            sys.exit(f"pyproject.toml: {requirement}: write it as name>=version, with the lowest version that works")
        out.append(f"{found[1]}=={found[2]}")
    return out


if __name__ == "__main__":
    print("\n".join(lowest(PROJECT["dependencies"])))

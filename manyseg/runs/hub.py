"""A run on the Hugging Face hub: what a receiver needs of it and no more, with a model card; and back from there.

Nothing of the data goes along: no images, no samples, no paths, no log. Nothing that comes from the hub is executed:
recipes and tables are text, weights are safetensors, and a method of another package is refused.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from manyseg import atomic
from manyseg.config import read_toml, to_toml
from manyseg.data.card import builtin_cards
from manyseg.data.hub_sets import asking, set_address
from manyseg.errors import UserError
from manyseg.runs.folder import RunFolder

__all__ = ["download", "hub_address", "pack", "push"]

PREFIX = "hf://"

NEEDED = ("recipe.toml", "spaces.json", "taxonomy.tsv", "files/*", "stages/*.tsv", "stages/*.npz")
"""What a run needs beside its best weights to predict; its manifest has the sums."""

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def push(folder: str | Path, name: str, licence: str, *, private: bool = False) -> str:
    """Put a run's best weights and what they need on the hub as `user/name`, with a model card; return its address.

    `licence` is an identifier of the hub such as `apache-2.0`. A repository that is there gets a new commit. Raises
    UserError where the run is not whole, where one is not logged in, and where the hub cannot be reached.
    """
    if not REPOSITORY.fullmatch(name):
        raise UserError(f"'{name}' is no name on the hub; give user/name or organisation/name")
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as place:
        packed = pack(folder, Path(place) / "model", name, licence)
        url = asking(lambda: api.create_repo(name, private=private, exist_ok=True), name)
        asking(lambda: api.upload_folder(repo_id=name, folder_path=packed, commit_message="manyseg push"), name)
    return str(url)


def pack(folder: str | Path, out: Path, name: str, licence: str) -> Path:
    """Write what a receiver of a run needs to the new folder `out`, with a model card in `README.md`; return `out`."""
    from manyseg.runs.model_card import model_card
    from manyseg.runs.run import Run
    from manyseg.training import checkpoint

    run = Run.open(folder)
    weights = checkpoint.read(run.folder / "best").folder
    found = [p for pattern in NEEDED[1:] for p in _files(run.folder, pattern)]
    files: dict[str, str | bytes] = {p.relative_to(run.folder).as_posix(): p.read_bytes() for p in found}
    files["recipe.toml"] = to_toml(_without_paths(read_toml(run.folder / "recipe.toml")))
    files["README.md"] = model_card(run, name, licence)
    out.mkdir(parents=True)
    RunFolder(out).write(files)
    for path in sorted(weights.iterdir()):
        with path.open("rb") as source:
            atomic.write(out / "best" / path.name, partial(shutil.copyfileobj, source))
    return out


def hub_address(folder: str | Path) -> str | None:
    """Return the place on the hub that a run's folder stands for, also as a path, which has lost a slash; or None."""
    text = folder.as_posix() if isinstance(folder, Path) else folder
    if text.startswith(PREFIX):
        return text
    return PREFIX + text.removeprefix("hf:/") if text.startswith("hf:/") else None


def download(address: str) -> Path:
    """Fetch a run from `hf://user/name`, or of a revision `hf://user/name@revision`, and return its folder.

    What was fetched before is taken from the hub's cache. Raises UserError where it cannot be had, where it is no run,
    and where its method is code of another package: then read that code, download the folder, and load it by its path.
    """
    name, _, revision = address.removeprefix(PREFIX).partition("@")
    if not REPOSITORY.fullmatch(name):
        raise UserError(f"'{address}' is no place on the hub; give hf://user/name, or hf://user/name@revision")
    from huggingface_hub import snapshot_download

    wanted = [*NEEDED, "manifest.json", "best/*"]
    folder = Path(asking(lambda: snapshot_download(name, revision=revision or None, allow_patterns=wanted), name))
    if not (folder / "recipe.toml").is_file():
        raise UserError(f"{address}: no run of manyseg is there (no recipe.toml); check the name")
    tree = read_toml(folder / "recipe.toml")
    stages = tree.get("stage", [])
    tables = [tree.get("method"), *(s.get("method") for s in stages if isinstance(s, dict))]
    for table in tables:
        if isinstance(table, dict) and ":" in str(table.get("name", "")):
            raise UserError(
                f"{address}: its method is code of another package ({table['name']}), which is not loaded from the "
                "hub; read that code, then download the folder and load it by its path"
            )
    return folder


def _files(folder: Path, pattern: str) -> list[Path]:
    """List the files of a pattern as `RunFolder` takes it, in which a star goes over slashes."""
    top, _, rest = pattern.partition("/")
    return sorted((folder / top).rglob(rest) if rest else folder.glob(top))


def _without_paths(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a run's recipe without where its data and what it started from were, and who watched."""
    data = tree.get("data", {})
    data.pop("root", None)
    if not hub_address(tree.get("start", PREFIX)):
        del tree["start"]
    for entry in (*data.get("sets", []), *data.get("unseen", [])):
        if set_address(entry["root"]) is None:
            entry["root"] = Path(entry["root"]).name
        if entry["card"] not in builtin_cards():
            entry["card"] = Path(entry["card"]).name
    if isinstance(tree.get("model", {}).get("pretrained"), str):
        tree["model"]["pretrained"] = False
    tree.get("model", {}).pop("init", None)
    for stage in (tree, *tree.get("stage", [])):
        if "track" in stage.get("train", {}):
            stage["train"]["track"] = []
    return tree

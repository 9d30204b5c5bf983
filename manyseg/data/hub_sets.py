"""Datasets of the Hugging Face hub: `hf://datasets/user/name` stands for a folder, which is fetched when it is needed.

The hub keeps most sets as Parquet files, those of other forms in a revision of their own. Only these and the tables of
classes are fetched; nothing that comes from the hub is executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from manyseg.data.class_tables import may_be_table
from manyseg.data.packed import packed_root
from manyseg.data.parquet import ENDING
from manyseg.data.stores import url_of
from manyseg.errors import UserError

__all__ = ["asking", "local_root", "set_address"]

PREFIX = "hf://datasets/"

CONVERTED = "refs/convert/parquet"
"""The revision in which the hub itself keeps sets of other forms as Parquet files."""

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")

T = TypeVar("T")


def set_address(root: str | Path) -> str | None:
    """Return the place on the hub that a dataset's root stands for, also as a path, which has lost a slash; or None."""
    text = os.fspath(root)
    return PREFIX + text.partition("datasets/")[2] if re.match("hf:/{1,2}datasets/", text) else None


def local_root(root: str | Path, base: Path = Path()) -> Path:
    """Return the folder of a dataset; relative paths start from `base`, and a set of the hub is fetched first.

    Where the folder, or an address such as `s3://bucket/street`, is a packed dataset, its index stands for it.

    `hf://datasets/user/name@revision` is a revision of it. What was fetched before is taken from the hub's cache, also
    without a network. Raises UserError where the set cannot be had, and where the hub has no Parquet files of it.
    """
    address = set_address(root)
    if address is not None:
        return _fetched(address)
    folder = Path(root) if url_of(root) is not None else base / root
    return packed_root(folder) or folder


@cache
def _fetched(address: str) -> Path:
    name, _, revision = address.removeprefix(PREFIX).partition("@")
    if not NAME.fullmatch(name):
        raise UserError(f"'{address}' is no dataset on the hub; give {PREFIX}user/name, or {PREFIX}user/name@revision")
    revisions = [revision] if revision else ["main", CONVERTED]
    try:
        for choice in revisions:
            if (folder := _snapshot(name, choice)) is not None:
                return folder
    except UserError:
        kept = [folder for choice in revisions if (folder := _kept(name, choice)) is not None]
        if kept:
            return kept[0]
        raise
    raise UserError(
        f"{address}: the hub has no Parquet files of it; fetch it as it is: "
        f"hf download --repo-type dataset {name} --local-dir FOLDER"
    )


def _snapshot(name: str, revision: str) -> Path | None:
    """Fetch the Parquet files of a revision, and the tables of classes; None if it has no Parquet files."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    def files() -> list[str]:
        try:
            return HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
        except RevisionNotFoundError:
            return []

    found = asking(files, f"datasets/{name}")
    if not any(file.endswith(ENDING) for file in found):
        return None
    wanted = [file for file in found if file.endswith(ENDING) or may_be_table(file)]

    def folder() -> str:
        return snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted)

    return Path(asking(folder, f"datasets/{name}"))


def _kept(name: str, revision: str) -> Path | None:
    """Return the folder of a revision that was fetched before."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def folder() -> str:
        parquet = f"*{ENDING}"
        return snapshot_download(
            name, repo_type="dataset", revision=revision, allow_patterns=parquet, local_files_only=True
        )

    try:
        kept = Path(folder())
    except LocalEntryNotFoundError:
        return None
    return kept if any(kept.rglob(f"*{ENDING}")) else None


def asking(request: Callable[[], T], name: str) -> T:
    """Ask the hub, and say in one line what went wrong."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return request()
    except Exception as e:
        # A download that is refused ends in an error of a file that is not here.
        hidden = isinstance(e, LocalEntryNotFoundError) and isinstance(e.__cause__, HfHubHTTPError)
        said = _refusal(e.__cause__ if hidden and e.__cause__ else e, name)
        if said is None:
            raise
        raise UserError(said) from None


def _refusal(error: BaseException, name: str) -> str | None:
    """Say what an error of the hub's library means, and what to do; None for what is none of the hub's."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

    if isinstance(error, LocalTokenNotFoundError):
        return "not logged in to the hub; run `hf auth login`, or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return f"hf://{name}: its owner gives access one by one; ask for it on its page, and log in"
    if isinstance(error, RepositoryNotFoundError):
        return f"hf://{name}: there is no such repository, or it is private; check the name, or log in"
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            return f"hf://{name}: the hub refuses this ({status}); log in with a token that has the right to it"
        if status is not None:
            return f"hf://{name}: the hub answers {status}; try again later"
    # Of httpx, whose package is another one in each release of the hub's library.
    if isinstance(error, OSError | HfHubHTTPError) or any(
        kind.__name__ == "TransportError" for kind in type(error).__mro__
    ):
        reason = " ".join(str(error).split())[:200]
        return f"hf://{name}: the hub cannot be reached ({reason}); check the network"
    return None

"""What every test shares: one torch thread, no way to the network, and examples without a time limit."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jaxtyping
import pytest
import torch
from hypothesis import settings

# Every function of the package checks the shapes and types of the arrays that it gets and returns.
jaxtyping.install_import_hook("manyseg", "shapes.check_arrays")

torch.set_num_threads(1)
# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """What is kept between runs is kept for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def unchecked():
    """Let arrays pass that are not as annotated, for tests of what the package itself says of them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The generated world, small, written once."""
    from manyseg.data.world import write_world

    return write_world(tmp_path_factory.mktemp("world"), train=6, val=3, size=(48, 64))


@pytest.fixture
def small(monkeypatch):
    """Let everything that asks timm for a plain transformer get a small one; gives the function that does."""
    import timm
    from small_transformers import create_small

    monkeypatch.setattr(timm, "create_model", create_small)
    return create_small

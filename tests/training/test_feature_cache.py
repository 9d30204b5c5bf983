"""What a frozen trunk gives for an evaluation's images is computed once."""

import json

import pytest
import torch
from tiny import tiny_recipe

from manyseg.models import PixelEncoder
from manyseg.models.tiny import TinyNet
from manyseg.runs.run import train_recipe
from manyseg.training import loop
from manyseg.training.feature_cache import FeatureCache


@pytest.fixture
def computed(monkeypatch):
    """The shapes of the images that went through a trunk in eval mode while nothing had a gradient."""
    seen, forward = [], TinyNet.forward

    def counted(self, image):
        if not torch.is_grad_enabled():
            seen.append(tuple(image.shape))
        return forward(self, image)

    monkeypatch.setattr(TinyNet, "forward", counted)
    return seen


def encoder(trainable="none"):
    torch.manual_seed(0)
    return PixelEncoder.build(backbone="tiny", pretrained=False, channels=8, trainable=trainable).eval()


def image(seed):
    return torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_same_images_are_computed_once_and_give_the_same_to_the_last_bit(computed):
    network = encoder()
    wanted = [network(image(seed)) for seed in (0, 1)]
    cache = FeatureCache(network.backbone.net)
    computed.clear()
    for _ in range(3):
        with cache.used():
            found = [network(image(seed)) for seed in (0, 1)]
        for a, b in zip(wanted, found, strict=True):
            assert all(
                torch.equal(x, y) for x, y in zip((*a.levels, a.embedding), (*b.levels, b.embedding), strict=True)
            )
        found[0].levels[0].zero_()  # Whoever changes what it was given changes nothing that is kept.
    assert len(computed) == 2
    network(image(0))
    assert len(computed) == 3


@torch.no_grad()
def test_other_sizes_images_and_precisions_are_others(computed):
    network = encoder()
    with FeatureCache(network.backbone.net).used():
        network(image(0))
        network(image(0).flip(-1))
        network(image(0).transpose(-1, -2))
        network(torch.zeros(1, 3, 16, 32))
        network(torch.zeros(1, 3, 32, 16))
        with torch.autocast("cpu", torch.bfloat16):
            low = network(image(0))
        assert len(computed) == 6
        with torch.autocast("cpu", torch.bfloat16):
            assert all(torch.equal(a, b) for a, b in zip(low.levels, network(image(0)).levels, strict=True))
    assert len(computed) == 6


@torch.no_grad()
def test_what_does_not_fit_is_computed_every_time(computed):
    network = encoder()
    size = sum(level.numel() * 4 for level in network.backbone.net(torch.zeros(2, 3, 32, 48)))
    cache = FeatureCache(network.backbone.net, memory=2 * size)
    computed.clear()
    for _ in range(2):
        with cache.used():
            for seed in range(3):
                network(image(seed))
    assert len(computed) == 3 + 1


@torch.no_grad()
def test_a_trunk_that_learns_is_computed_every_time(computed):
    network = encoder("last:1")
    cache = FeatureCache(network.backbone.net)
    with cache.used():
        before = network(image(0)).embedding
    next(p for p in network.backbone.net.parameters() if p.requires_grad).add_(1)
    with cache.used():
        assert not torch.equal(network(image(0)).embedding, before)
    assert len(computed) == 2


@pytest.mark.parametrize("more", [{}, {"ema": 0.5}])
def test_a_run_whose_trunk_is_frozen_evaluates_as_if_nothing_was_kept(world, tmp_path, computed, monkeypatch, more):
    path = world.folder / "frozen.toml"
    path.write_text(tiny_recipe("fine", steps=3, eval_every=1, log_every=1, **more))
    frozen = ["model.trainable=none"]

    def scores(out):
        computed.clear()
        run = train_recipe(path, out=out, overrides=frozen)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [line["eval"] for line in lines if "eval" in line], len(computed)

    kept, few = scores(tmp_path / "kept")
    monkeypatch.setattr(loop.FeatureCache, "used", lambda self: torch.no_grad())
    plain, many = scores(tmp_path / "plain")
    assert kept == plain
    assert len(kept) == 3
    assert many - few == 2  # The three images are one batch, and the second and third evaluation compute nothing.

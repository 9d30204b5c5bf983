"""Batch norms folded into convolutions: the same outputs, or a network that is left as it was."""

import copy

import pytest
import torch
from torch import nn

from manyseg.models import PixelEncoder
from manyseg.models.folding import fold_batch_norms

IMAGE = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def norms(network):
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def trained(network):
    """Give norms the statistics and factors of a network that has been trained."""
    torch.manual_seed(0)
    for norm in norms(network):
        for name, least in {"running_mean": -0.5, "running_var": 0.5, "weight": 0.5, "bias": -0.5}.items():
            getattr(norm, name).data.uniform_(least, least + 1)
    return network.eval()


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_050"])
def test_a_folded_network_gives_the_same_features(backbone):
    network = trained(PixelEncoder.build(backbone=backbone, pretrained=False, channels=16))
    count, folded = len(norms(network)), copy.deepcopy(network)
    assert fold_batch_norms(folded, IMAGE[:1]) == count - len(norms(folded)) == count
    with torch.no_grad():
        for image in (IMAGE, IMAGE[..., :50, :61]):
            expected, got = network(image), folded(image)
            for a, b in zip((*expected.levels, expected.embedding), (*got.levels, got.embedding), strict=True):
                torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


class Odd(nn.Module):
    """A convolution whose output, or whose weights, have more users than one norm."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv, self.norm = kind, nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.other = nn.BatchNorm2d(3)

    def forward(self, x):
        x = x.float() / 255
        y = self.conv(x)
        if self.kind == "also read by a sum":
            return y + self.norm(y)
        if self.kind == "read by two norms":
            return self.norm(y) + self.other(y)
        if self.kind == "used twice":
            return self.other(self.conv(self.norm(y)))
        if self.kind == "norm used twice":
            return self.norm(self.norm(y))
        return self.norm(torch.relu(y))


@pytest.mark.parametrize(
    "kind", ["also read by a sum", "read by two norms", "used twice", "norm used twice", "behind an activation"]
)
def test_what_cannot_be_folded_is_left_as_it_was(kind):
    network = trained(Odd(kind))
    state = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        expected = network(IMAGE)
        assert fold_batch_norms(network, IMAGE) == 0
        assert torch.equal(network(IMAGE), expected)
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_norms_that_count_while_they_work_stay():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    network[1].train()
    network[3] = nn.BatchNorm2d(3, track_running_stats=False).eval()
    assert fold_batch_norms(network, IMAGE.float()) == 0

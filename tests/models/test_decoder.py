import pytest
import torch

from manyseg.models import Features
from manyseg.models.decoder import QueryDecoder, _sine


def decoder(guidance="image_first", **sizes):
    torch.manual_seed(0)
    return QueryDecoder(3, 8, 5, queries=4, blocks=2, heads=2, guidance=guidance, **sizes)


LEVEL, WORDS = torch.randn(2, 3, 2, 3), torch.randn(6, 8)


def seen(level=LEVEL):
    return Features((level,), torch.zeros(len(level), 5, 4, 6))


def test_training_sees_every_block_and_inference_the_last():
    net = decoder()
    every = net(seen(), WORDS)
    assert every.queries.shape == (2, 2, 4, 8)
    assert every.masks.shape == (2, 2, 4, 5)
    last = net.eval()(seen(), WORDS)
    torch.testing.assert_close(last.queries, every.queries[-1:])
    torch.testing.assert_close(last.masks, every.masks[-1:])


@pytest.mark.parametrize(("guidance", "sees"), [("image_first", True), ("text_first", True), ("none", False)])
def test_words_guide_only_where_they_are_asked_to(guidance, sees):
    net = decoder(guidance).eval()
    same = torch.equal(net(seen(), WORDS).queries, net(seen(), WORDS + 1).queries)
    assert same != sees
    assert any("text" in name for name, _ in net.named_parameters()) == sees


def test_the_two_orders_are_two_networks_of_the_same_weights():
    one, other = decoder("image_first").eval(), decoder("text_first").eval()
    other.load_state_dict(one.state_dict())
    assert not torch.allclose(one(seen(), WORDS).queries, other(seen(), WORDS).queries)


def test_the_order_of_words_does_not_matter():
    net = decoder().eval()
    torch.testing.assert_close(net(seen(), WORDS).queries, net(seen(), WORDS.flip(0)).queries)


def test_images_do_not_see_each_other():
    net = decoder().eval()
    torch.testing.assert_close(net(seen(), WORDS).masks[:, 1:], net(seen(LEVEL[1:]), WORDS).masks)


def test_queries_know_where_things_are():
    net = decoder().eval()
    assert not torch.allclose(net(seen(), WORDS).masks, net(seen(LEVEL.flip(-1)), WORDS).masks, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 6, 8, 48])
def test_every_place_has_a_code_of_its_own_whatever_the_number_of_channels(channels):
    code = _sine(3, 5, channels, torch.device("cpu"))
    assert code.shape == (channels, 3, 5)
    assert code.abs().max() <= 1
    if channels > 4:
        assert len(code.flatten(1).T.unique(dim=0)) == 15

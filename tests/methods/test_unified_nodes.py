"""Free unified nodes under a map that stands, on values computed by hand; the exam is in test_exam.py."""

import numpy as np
import pytest
import torch

from manyseg import testing
from manyseg.config import keywords
from manyseg.data.annotation import Dense
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import LabelSpace
from manyseg.methods.baselines import MultiHead
from manyseg.methods.initial_nodes import PruningOptions
from manyseg.methods.sources import StageStatistics
from manyseg.methods.unified_nodes import UnifiedNodes
from manyseg.models import PixelEncoder
from manyseg.relate.statistics import UNIFIED, Statistics
from manyseg.training.options import TrainOptions


def pixel_encoder(channels=8):
    return PixelEncoder.build(backbone="tiny", pretrained=False, channels=channels)


def build(**options):
    torch.manual_seed(0)
    return UnifiedNodes(pixel_encoder(), testing.toy_spaces(), **({"init": "names"} | options))


def table(tmp_path, *rows, spaces=("a", "b")):
    path = tmp_path / "table.tsv"
    path.write_text("\n".join("\t".join(r) for r in [("unified", *spaces), *rows]) + "\n")
    return path


def test_free_nodes_learn_the_toy_world_by_log_sum_exp_of_cosines_too():
    options = {"init": "names", "combine": "lse", "normalise": True, "scale": 10.0}
    testing.learns_the_toy_world(lambda p, s: UnifiedNodes(p, s, **options), steps=160)


@pytest.mark.parametrize(("combine", "score"), [("sum", 3.0), ("lse", 2.3132617)])
def test_a_class_of_two_nodes_is_their_sum_or_their_log_sum_exp(tmp_path, combine, score):
    spaces = [LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["u", "v"])]
    path = table(tmp_path, ("1", "x", "u"), ("2", "x", "v"))
    method = UnifiedNodes(pixel_encoder(2), spaces, init=path, combine=combine)
    method.nodes.data = torch.eye(2)
    p = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    assert method.unified(p).flatten().tolist() == [1, 2]
    assert method.dataset_scores(p, spaces[0]).flatten().tolist() == pytest.approx([score])
    assert method.dataset_scores(p, spaces[1]).flatten().tolist() == pytest.approx([1, 2])
    # An unseen class of both nodes: the best node where sums were trained, else as in training.
    links = method.relation_index(spaces[0])
    assert method.relate(method.unified(p), links).item() == pytest.approx(2.0 if combine == "sum" else score)


def test_nodes_that_share_no_class_start_with_exactly_the_scores_of_normalised_heads():
    torch.manual_seed(0)
    heads = MultiHead(pixel_encoder(), testing.toy_spaces(), bias=False, normalise=True, scale=4.0).eval()
    method = build(init="disjoint", normalise=True, scale=5.0).eval()
    given = dict(method.inherit(heads.handover()))
    method.load_state_dict({k: v for k, v in given.items() if k in method.state_dict()})
    image = testing.toy_batches()[0].image
    with torch.no_grad():
        for space in testing.toy_spaces():
            scores = [testing.predict(m, image, space) for m in (heads, method)]
            torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5)
    tripled = 3 * torch.randn(1, 8, 2, 2)
    torch.testing.assert_close(
        heads.dataset_scores(tripled, heads.spaces[0]), heads.dataset_scores(tripled / 3, heads.spaces[0])
    )


def test_corner_cells_lie_on_corner_pixels_where_asked_to_in_all_stages():
    """One row of two cells: between them the second of four pixels is nearer the first cell, at 1/3, or at 1/4."""
    space = LabelSpace.of("a", ["x", "y"])
    labels = torch.tensor([[[0, 0, 1, 1]]])
    z = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]])
    at = {True: [2 / 3, 1 / 3], False: [3 / 4, 1 / 4]}
    for aligned, (first, second) in at.items():
        method = UnifiedNodes(pixel_encoder(2), [space], init="disjoint", align_corners=aligned)
        batch = Batch(space, ("i",), torch.zeros(1, 3, 1, 4, dtype=torch.uint8), Dense(labels))
        margins = [2.0, 2 * first - (1 - first), 1 - second - 2 * second, 1.0]
        expected = np.mean([np.log1p(np.exp(-m)) for m in margins])
        assert method.pixel_loss(z, batch).mean().item() == pytest.approx(expected, rel=1e-5)
    plans = UnifiedNodes.default_stages(
        keywords(UnifiedNodes, "O").model_validate({"align_corners": True}), TrainOptions()
    )
    assert plans[0].method == {"name": "multihead", "align_corners": True}


def test_directions_only_and_scale():
    method = build(normalise=True, scale=5.0)
    p = torch.randn(1, 8, 2, 2)
    assert torch.allclose(method.unified(3 * p), method.unified(p), atol=1e-5)
    expected = 5 * torch.einsum("uc,bchw->buhw", method.nodes, p / p.norm(dim=1, keepdim=True))
    assert torch.allclose(method.unified(p), expected, atol=1e-5)


def test_nodes_start_at_the_mean_head_of_their_classes():
    torch.manual_seed(1)
    heads = MultiHead(pixel_encoder(), testing.toy_spaces()).head.weight
    found = build(scale=2.0).inherit({"head.weight": heads})["nodes"]
    # By names, `road` is class 0 of `fine` and class 2 of `coarse`, rows 0 and 6; `car` is row 2 alone.
    rows = heads.detach().flatten(1)
    assert torch.allclose(found[[0, 2]], torch.stack([(rows[0] + rows[6]) / 2, rows[2]]) / 2, atol=1e-6)
    assert "nodes" not in build(warm=False).inherit({"head.weight": heads})


def test_the_nodes_that_pruning_left_are_taken_over(tmp_path):
    spaces = [LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["u", "v"])]
    path = table(tmp_path, ("1", "x", "u"), ("2", "x", ""), ("3", "x", "v"))
    counts = {("a", UNIFIED): np.array([[90, 1, 9]]), ("b", UNIFIED): np.array([[50, 0, 0], [0, 0, 50]])}
    known = Statistics("key", counts, {}, {}, {k: np.zeros(3, int) for k in counts}, {})
    method = UnifiedNodes(pixel_encoder(), spaces, init=path, statistics=known, pruning=PruningOptions(usage=0.05))
    assert method.taxonomy.unified.names == ("1", "3")
    nodes = torch.randn(3, 8)
    assert torch.equal(method.inherit({"nodes": nodes})["nodes"], nodes[[0, 2]])


def test_a_table_stays_as_it_is(tmp_path):
    path = tmp_path / "mine.tsv"
    testing.toy_taxonomy().write(path)
    path.write_text(path.read_text().replace("truck\t", "big car\t", 1))
    assert build(init=path).taxonomy.to_tsv() == path.read_text()


def test_a_table_whose_node_has_two_classes_of_a_dataset_is_refused(tmp_path):
    spaces = [LabelSpace.of("a", ["x", "y"]), LabelSpace.of("b", ["u"])]
    path = table(tmp_path, ("1", "x|y", "u"))
    with pytest.raises(UserError, match=r"1 nodes have several classes of 'a' \('1' first\)"):
        UnifiedNodes(pixel_encoder(), spaces, init=path)


def test_stages_are_two_fifths_of_heads_and_three_of_nodes():
    def divide(steps, **options):
        given = keywords(UnifiedNodes, "Options").model_validate(options)
        return UnifiedNodes.default_stages(given, TrainOptions(steps=steps))

    plans = divide(500, ohem=0.7)
    assert [(p.name, p.steps) for p in plans] == [("heads", 200), ("nodes", 300)]
    assert plans[0].method == {"name": "multihead", "ohem": 0.7}
    assert plans[1].method == {"statistics": StageStatistics("heads")}
    assert [dict(p.train) for p in plans] == [{"warmup": 20}, {"warmup": 30}]
    assert divide(500, init="disjoint")[1].method == {}
    assert [p.steps for p in divide(2)] == [1, 1]
    with pytest.raises(UserError, match=r"train.steps is 1; unified_nodes needs 2"):
        divide(1)

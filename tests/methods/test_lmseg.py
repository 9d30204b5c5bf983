"""LMSeg: the exam in small, and every checkable sentence of its paper by hand."""

import math

import pytest
import torch
from words import write_encoder

from manyseg import testing
from manyseg.data.annotation import Boxes, Dense, Segments
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.inference.options import SegmentOptions
from manyseg.labels import IGNORE, LabelClass, LabelSpace, Taxonomy
from manyseg.losses.set_prediction import class_loss
from manyseg.methods.lmseg import LMSeg, semantic_scores
from manyseg.methods.query_classifiers import (
    MultiHeadClassifier,
    TextClassifier,
    UnifiedClassifier,
    cosine_logits,
)
from manyseg.models import Features, PixelEncoder
from manyseg.models.text import TextEncoder
from manyseg.runs.recipe import read_recipe

SMALL = {"queries": 12, "blocks": 2, "attention_heads": 4}
A = LabelSpace.of("a", ["road", "car"])
B = LabelSpace.of("b", ["car", "tree", "sky"])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    words = [w for s in (*testing.toy_spaces(), A, B) for n in s.names for w in n.split()]
    return write_encoder(tmp_path_factory.mktemp("bert"), [*words, "background", "automobile", "one", "none", "two"])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYSEG_CACHE", str(tmp_path / "cache"))


def build(encoder, spaces=(A, B), **options):
    torch.manual_seed(0)
    pixel_encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=16)
    return LMSeg(pixel_encoder, spaces, **{**SMALL, "text": encoder, "prompt_tokens": 2} | options)


def image(count=2, size=(32, 48), seed=0):
    return torch.randint(0, 256, (count, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def batch(space, labels):
    return Batch(space, tuple(map(str, range(len(labels)))), image(len(labels), labels.shape[1:]), Dense(labels))


def blocks(space, count=2, size=(32, 48), seed=0):
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, len(space), (count, size[0] // 16, size[1] // 16), generator=g)
    return coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)


# The exam, for what its run over all methods leaves out: prompts, the baselines, the other order, points.

FAST = [c for c in testing.EXAM if c is not testing.learns_the_toy_world]


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_tokens": 2},
        {"classifier": "heads"},
        {"classifier": "taxonomy", "taxonomy": testing.toy_taxonomy()},
        {"prompt_tokens": 0, "guidance": "text_first"},
        {"prompt_tokens": 0, "guidance": "none"},
    ],
    ids=lambda options: "-".join(str(v) for v in options.values() if isinstance(v, str | int)),
)
@pytest.mark.parametrize("check", FAST, ids=lambda check: check.__name__)
def test_exam(check, options, encoder):
    check(lambda pixel_encoder, spaces: LMSeg(pixel_encoder, spaces, **{**SMALL, "text": encoder} | options))


# Equation 1.


def test_scores_are_cosines_over_the_temperature_whatever_the_lengths():
    words = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    p = cosine_logits(torch.tensor([[1.0, 0.0]]), words, torch.tensor(0.07))
    torch.testing.assert_close(p, torch.tensor([[1.0, 0.0, -1.0]]) / 0.07)
    torch.testing.assert_close(cosine_logits(torch.tensor([[9.0, 0.0]]), 3 * words, torch.tensor(0.07)), p)


def test_the_temperature_starts_at_007_and_never_falls_below_001(encoder):
    classes = build(encoder).classes
    assert classes.log_temperature.exp().item() == pytest.approx(0.07)
    with torch.no_grad():
        classes.log_temperature.fill_(-100.0)
        queries = torch.randn(3, 16)
        reading = classes([A])[0]
        expected = cosine_logits(queries, reading.texts, torch.tensor(0.01)).log_softmax(-1)
        torch.testing.assert_close(reading.classify(queries), expected)


# Words.


def test_the_defaults_are_what_the_paper_states(encoder):
    """100 queries, 6 blocks, 8 prompt vectors, temperature 0.07, image then text, weights of 20, 1 and 0.1."""

    def default(**options):
        torch.manual_seed(0)
        pixel_encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=16)
        return LMSeg(pixel_encoder, (A, B), text=encoder, **options).eval()

    method = default()
    assert (len(method.decoder.initial_queries), len(method.decoder.blocks)) == (100, 6)
    assert len(method.classes.text.prompt) == 8
    assert (method.loss.focal_weight, method.loss.dice_weight, method.loss.background_weight) == (20, 1, 0.1)
    with torch.no_grad():
        level = Features((torch.randn(1, 32, 2, 3),), torch.zeros(1, 16, 8, 12))
        texts = method.classes([A])[0].texts
        found, image_first, text_first = (
            m.decoder(level, texts).queries[-1]
            for m in (method, default(guidance="image_first"), default(guidance="text_first"))
        )
    assert torch.equal(found, image_first)
    assert not torch.allclose(found, text_first)


def test_other_datasets_words_guide_in_training_and_are_no_answers(encoder, monkeypatch):
    batches = [batch(A, blocks(A)), batch(B, blocks(B))]
    told = {}
    for share in (0.0, 1.0):
        method, seen = build(encoder, other_words=share, prompt_tokens=0), []
        decode = method.decoder.forward
        monkeypatch.setattr(
            method.decoder, "forward", lambda level, words, d=decode, s=seen: (s.append(words), d(level, words))[1]
        )
        method.step_losses([method.pixel_encoder(b.image) for b in batches], batches)
        told[share] = [len(words) for words in seen]
        texts = method.classes.text()
        assert torch.equal(seen[0][: len(A)], texts[[method.classes.position[n] for n in A.names]])
    # Two and three classes and the background; every word of the other dataset, but not its background, is added.
    assert told == {0.0: [3, 4], 1.0: [3 + 3, 4 + 2]}


def test_permuting_the_words_permutes_the_scores(encoder):
    method = build(encoder).eval()
    turned = LabelSpace.of("turned", ["sky", "car", "tree"])
    with torch.no_grad():
        scores, other = (testing.predict(method, image(), s) for s in (B, turned))
    torch.testing.assert_close(other, scores[:, [2, 0, 1]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guidance", ["none", "image_first"])
def test_a_further_word_changes_the_other_cosines_only_where_words_guide(encoder, guidance):
    method = build(encoder, guidance=guidance).eval()
    level = Features((torch.randn(1, 32, 2, 3),), torch.zeros(1, 16, 8, 12))
    found = []
    with torch.no_grad():
        for names in (["road", "car"], ["road", "car", "sky"]):
            (reading,) = method.classes([LabelSpace.of("s", names)])
            queries = method.decoder(level, reading.texts).queries[-1]
            logits = cosine_logits(queries, reading.texts, torch.tensor(1.0))
            found.append(logits[..., [0, 1, -1]])
    assert torch.allclose(*found, atol=1e-5) == (guidance == "none")


def test_any_words_can_be_asked_for_and_equal_words_are_read_equally(encoder):
    method = build(encoder).eval()
    with torch.no_grad():
        words = testing.predict(method, image(), LabelSpace.of("road, car", ["road", "car"]))
        assert torch.equal(words, testing.predict(method, image(), A))
        new = testing.predict(method, image(), LabelSpace.of("automobile", ["automobile"]))
    assert new.shape[:2] == (2, 1)
    assert method.reads_words
    assert not build(encoder, classifier="heads").reads_words


def test_the_unified_words_are_the_classes_own(encoder):
    method = build(encoder).eval()
    assert method.taxonomy.unified.names == ("road", "car", "tree", "sky")
    unified, own = (method.classes([s])[0].texts for s in (method.taxonomy.unified, B))
    cosines = torch.nn.functional.cosine_similarity(unified[[1, 2, 3, 4]], own)
    torch.testing.assert_close(cosines, torch.ones(4))


def test_a_class_called_background_is_refused_by_name(encoder):
    with pytest.raises(UserError, match="'c' has a class 'background'"):
        build(encoder, (A, LabelSpace.of("c", ["background"])))


def test_the_text_encoder_is_asked_once_for_the_words_of_a_space(encoder, monkeypatch):
    method = build(encoder).eval()
    calls = []
    original = TextEncoder.with_prompt
    monkeypatch.setattr(TextEncoder, "with_prompt", lambda self, t, p: calls.append(1) or original(self, t, p))
    with torch.no_grad():
        for _ in range(3):
            testing.predict(method, image(), A)
            testing.predict(method, image(), LabelSpace.of("x", ["automobile"]))
    assert len(calls) == 2


def test_of_ever_new_words_the_oldest_are_forgotten(encoder, monkeypatch):
    monkeypatch.setattr("manyseg.methods.lmseg.CACHED", 2)
    method = build(encoder).eval()
    with torch.no_grad():
        for space in (A, B, LabelSpace.of("x", ["automobile"])):
            testing.predict(method, image(), space)
    assert [space.name for space, _ in method._cached] == ["b", "x"]


def test_a_reloaded_model_predicts_known_labels_without_the_text_encoder(encoder, monkeypatch):
    method, fresh = build(encoder), build(encoder)
    fresh.load_state_dict(method.state_dict())
    monkeypatch.setattr("manyseg.models.text._load", lambda source: pytest.fail("the encoder was loaded"))
    with torch.no_grad():
        testing.predict(fresh.eval(), image(), A)


def test_what_was_read_is_forgotten_when_weights_change(encoder):
    method, other = build(encoder).eval(), build(encoder).eval()
    with torch.no_grad():
        other.classes.text.adapter.weight.add_(torch.randn(16, 16))
        before = testing.predict(method, image(), A)
        method.load_state_dict(other.state_dict())
        assert torch.equal(testing.predict(method, image(), A), testing.predict(other, image(), A))
        method.train()
        method.classes.text.adapter.weight.zero_()
        method.eval()
        assert not torch.equal(testing.predict(method, image(), A), before)


def test_no_gradient_reaches_the_text_encoder_and_one_reaches_prompt_and_adapter(encoder):
    method = build(encoder).train()
    torch.autograd.backward(sum(method([batch(A, blocks(A))]).values()))
    text = method.classes.text
    assert text.prompt.grad.any()
    assert text.adapter.weight.grad.any()
    assert all(p.grad is None for p in text.encoder._loaded[1].parameters())


# Equations 2 to 5.


def test_an_unmatched_query_weighs_a_tenth_and_the_mean_is_by_weight():
    # Cross entropies 1 (matched) and 2 (unmatched, class 1 is background).
    classes = torch.tensor([[[[-1.0, 0.0], [0.0, -2.0]]]])
    wanted = torch.tensor([[[0, 1]]])
    assert class_loss(classes, wanted, 0.1).mean().item() == pytest.approx(1.09091, abs=5e-6)


def losses(method, space, labels, seed=0):
    return {k: v.item() for k, v in method.eval()([batch(space, labels)]).items()}


def test_the_class_loss_is_divided_by_the_weights_of_matched_and_unmatched_queries(encoder):
    """Two present classes and 12 queries of equal belief: each cross entropy is log 3, whatever is matched."""
    method = build(encoder, classifier="heads")
    with torch.no_grad():
        for p in method.classes.parameters():
            p.zero_()
    assert losses(method, A, blocks(A, seed=1))["a/class"] == pytest.approx(math.log(3), rel=1e-5)


def test_mask_losses_are_divided_by_the_number_of_segments(encoder):
    """All masks are the same 0: the dice loss of each of the segments is known, as is the focal one."""
    method = build(encoder, focal_weight=20.0, dice_weight=1.0)
    with torch.no_grad():
        for p in method.decoder.mask[-1].parameters():
            p.zero_()
    labels = torch.zeros(1, 32, 48, dtype=torch.long)
    labels[:, :16] = 1
    found = losses(method, A, labels)
    pixel_encoder = 32 * 48
    # Half of the image each; p = 1/2 everywhere: 1 - (2 * n/4 + 1) / (n/2 + n/2 + 1) for both.
    assert found["a/dice"] == pytest.approx(1 - (pixel_encoder / 2 + 1) / (pixel_encoder + 1), rel=1e-4)
    assert found["a/focal"] == pytest.approx(20 * (0.04332 + 0.12997) / 2, rel=1e-3)


def test_every_block_is_supervised_in_training_and_adds_up(encoder):
    method = build(encoder, classifier="heads")
    one = batch(A, blocks(A))
    with torch.no_grad():
        for p in method.classes.parameters():
            p.zero_()
        assert method.train()([one])["a/class"].item() == pytest.approx(2 * math.log(3), rel=1e-5)


def test_an_ignored_pixel_changes_no_loss_and_neither_does_padding(encoder):
    method = build(encoder)
    labels = blocks(A)
    labels[:, :, 40:] = IGNORE
    expected = losses(method, A, labels)
    # Whatever the image shows there is left to the queries; a class there is not.
    for class_ in (0, 1):
        changed = labels.clone()
        changed[:, :, 40:] = class_
        assert losses(method, A, changed) != pytest.approx(expected)


def test_segments_teach_one_mask_an_instance_and_masks_one_a_class(encoder):
    method = build(encoder)
    labels = torch.zeros(1, 32, 48, dtype=torch.long)
    labels[:, :16, :16] = labels[:, :16, 32:] = 1
    ids = torch.zeros_like(labels)
    ids[:, :16, :16], ids[:, :16, 32:] = 1, 2
    segments = Segments(ids, torch.tensor([[0, 1, 1]]))
    found = []
    original = method.loss._losses
    method.loss._losses = lambda output, matches, *rest: (
        found.append(matches.segments) or original(output, matches, *rest)
    )
    method([batch(A, labels)])
    method([batch(A, labels)._replace(annotation=segments)])
    assert found == [2, 3]


def test_more_segments_than_queries_are_reported_once(encoder):
    method = build(encoder, queries=1)
    with pytest.warns(UserWarning, match=r"of a batch of 'b' have no query; raise method.queries above 1"):
        method([batch(B, blocks(B))])
    method([batch(B, blocks(B))])


def test_all_batches_of_a_step_are_matched_in_one_copy(encoder, monkeypatch):
    method = build(encoder)
    calls = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t, *a, **k: calls.append(1) or original(t, *a, **k))
    method.train()([batch(A, blocks(A)), batch(B, blocks(B))])
    assert len(calls) == 1


def test_boxes_are_refused_in_words():
    assert Boxes not in LMSeg.accepts


# Inference.


def test_the_score_of_a_class_is_1_where_one_sure_query_of_it_has_a_sure_mask():
    classes = torch.tensor([[[0.0, -100.0, -100.0], [-100.0, -100.0, 0.0]]])
    masks = torch.tensor([[[[100.0, -100.0]], [[100.0, 100.0]]]])
    scores = semantic_scores(classes, masks)
    # The second query is background, whose probability never appears.
    torch.testing.assert_close(scores, torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]]))


def test_the_belief_is_the_summed_probability_of_each_class(encoder):
    method = build(encoder).eval()
    with torch.no_grad():
        features = method.pixel_encoder(image())
        classes, masks, embedding = method._decode(features, method._classifier(B))
        s = semantic_scores(classes, torch.einsum("bqc,bchw->bqhw", masks, embedding)) + 1e-3
        torch.testing.assert_close(method.predict(features, B).softmax(1), s / s.sum(1, keepdim=True))


def test_the_published_scores_sum_masks_that_were_upsampled_before_the_sigmoid(encoder):
    method = build(encoder, semantic="sum", queries=20).eval()
    with torch.no_grad():
        features = method.pixel_encoder(image())
        classes, masks, embedding = method._decode(features, method._classifier(B))
        logits = torch.einsum("bqc,bchw->bqhw", masks, embedding)
        native = torch.nn.functional.interpolate(logits, size=image().shape[-2:], mode="bilinear")
        torch.testing.assert_close(method.predict(features, B), semantic_scores(classes, native))


@pytest.mark.parametrize("learned", [True, False])
def test_the_temperature_is_learned_or_stays(encoder, learned):
    method = build(encoder, learn_temperature=learned, temperature=0.1)
    sum(method([batch(A, blocks(A))]).values()).backward()
    assert (method.classes.log_temperature.grad is not None) == learned
    assert method.classes.log_temperature.exp().item() == pytest.approx(0.1)


def test_an_unseen_class_is_read_as_the_sum_over_its_nodes(encoder):
    method = build(encoder).eval()
    relation = torch.tensor([[True, True, False, False], [False, False, False, True]])
    with torch.no_grad():
        found = testing.predict(method, image(), LabelSpace.of("c", ["x", "y"]), relation).exp() - 1e-3
        nodes = testing.predict(method, image(), method.taxonomy.unified).exp() - 1e-3
    torch.testing.assert_close(found[:, 0], nodes[:, 0] + nodes[:, 1])
    torch.testing.assert_close(found[:, 1], nodes[:, 3])


def test_segments_are_found_at_native_size_with_classes_of_the_space(encoder):
    method = build(encoder).eval()
    space = LabelSpace("b", (LabelClass("car", thing=True), LabelClass("tree"), LabelClass("sky")))
    found = method.segments(
        method.pixel_encoder(image(size=(33, 50))), space, (66, 100), SegmentOptions(mask_threshold=0)
    )
    assert [f.ids.shape for f in found] == [(66, 100)] * 2
    assert all(f.ids.max() < len(f.classes) for f in found)
    assert all(set(f.classes.tolist()) <= {0, 1, 2} for f in found)


# The baselines.


def test_a_head_of_its_own_reads_each_dataset_and_the_unified_one_has_equal_shares():
    torch.manual_seed(0)
    heads = MultiHeadClassifier((A, B), 4)
    queries = torch.randn(3, 4)
    a, b, unified = (r.classify(queries).exp() for r in heads([A, B, heads.taxonomy.unified]))
    torch.testing.assert_close(unified, torch.cat([a[:, :2] / 2, b[:, :3] / 2, (a[:, 2:] + b[:, 3:]) / 2], 1))


def test_one_softmax_over_united_names_gives_a_class_its_nodes_probability():
    torch.manual_seed(0)
    unified = UnifiedClassifier(Taxonomy.by_name((A, B)), 4)
    queries = torch.randn(3, 4)
    own, nodes = (r.classify(queries).exp() for r in unified([B, unified.taxonomy.unified]))
    torch.testing.assert_close(own, nodes[:, [1, 2, 3, 4]])


def test_a_class_of_two_nodes_has_the_sum_of_their_probabilities():
    taxonomy = Taxonomy.from_groups(
        (A, B), [[("a", "road")], [("a", "car"), ("b", "car")], [("b", "tree"), ("a", "road")], [("b", "sky")]]
    )
    unified = UnifiedClassifier(taxonomy, 4)
    queries = torch.randn(3, 4)
    own, nodes = (r.classify(queries).exp() for r in unified([A, taxonomy.unified]))
    torch.testing.assert_close(own[:, 0], nodes[:, 0] + nodes[:, 2])


@pytest.mark.parametrize("classifier", ["heads", "taxonomy"])
def test_a_baseline_cannot_read_words(classifier, encoder):
    with pytest.raises(UserError, match="'x' is no label space of this model"):
        testing.predict(build(encoder, classifier=classifier).eval(), image(), LabelSpace.of("x", ["road"]))


def test_a_baseline_needs_no_text_encoder():
    method = build("./no/such/folder", classifier="heads")
    assert not any(".text." in name for name in method.state_dict())


def test_words_unlike_heads_share_what_datasets_call_the_same(encoder):
    assert isinstance(build(encoder).classes, TextClassifier)
    rows = build(encoder).classes.text.texts
    assert sorted(rows) == ["background", "car", "road", "sky", "tree"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 0}, "method.queries is 0"),
        ({"attention_heads": 5}, "model.channels is 16"),
        ({"template": "a photo"}, "method.template"),
        ({"temperature": 0.0}, "method.temperature"),
        ({"other_words": 1.5}, "method.other_words is 1.5"),
    ],
)
def test_options_outside_their_range_are_refused_by_name(encoder, options, message):
    with pytest.raises(UserError, match=message):
        build(encoder, **options)


def test_a_recipe_with_an_option_of_an_earlier_version_is_told_the_new_name(tmp_path):
    recipe = tmp_path / "r.toml"
    text = '[data]\ncrop = [32, 32]\nsets = [{ card = "x.toml", root = "x", per_step = 1 }]\n[train]\nsteps = 1\n'
    for old, new in (("things_above", "test.mask_threshold"), ("overlap_threshold", "test.overlap_threshold")):
        recipe.write_text(text + f'[method]\nname = "lmseg"\n{old} = 0.5\n')
        with pytest.raises(UserError, match=f"method.{old}: is now {new}"):
            read_recipe(recipe)


# EoMT: the queries inside the encoder.


def eomt(encoder, **options):
    torch.manual_seed(0)
    pixels = PixelEncoder.build(backbone="vit_small_patch14_reg4_dinov2", pretrained=False)
    return LMSeg(pixels, (A, B), decoder="eomt", queries=12, blocks=2, text=encoder, attention_heads=4, **options)


@pytest.mark.parametrize("options", [{}, {"classifier": "heads"}, {"points": 64}], ids=str)
def test_queries_inside_the_encoder_learn_masks_and_words(encoder, small, options):
    method = eomt(encoder, **options).train()
    batches = [batch(A, blocks(A)), batch(B, blocks(B, size=(48, 48)))]
    losses = method(batches)
    assert set(losses) == {f"{s}/{name}" for s in "ab" for name in ("class", "focal", "dice")}
    sum(losses.values()).backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.no_grad():
        features = method.eval().pixel_encoder(image(size=(50, 70)))
        assert method.predict(features, B).shape == (2, 3, 13, 18)
        assert len(method.segments(features, A, (50, 70), SegmentOptions())) == 2


def test_masks_of_attention_are_annealed_over_the_training():
    recipe = {"data": {"sets": [{"card": "cityscapes", "root": "x"}]}, "train": {"steps": 40}}
    made = read_recipe({**recipe, "method": {"name": "lmseg", "decoder": "eomt"}}).stages[0]
    assert made.options["annealing_steps"] == 40
    assert "annealing_steps" not in read_recipe({**recipe, "method": {"name": "lmseg"}}).stages[0].options
    given = {"name": "lmseg", "decoder": "eomt", "annealing_steps": 7}
    assert read_recipe({**recipe, "method": given}).stages[0].options["annealing_steps"] == 7


def test_masks_of_attention_follow_the_steps(encoder, small):
    method = eomt(encoder, classifier="heads", annealing_steps=40)
    method.on_step(20)
    assert method.decoder.mask_probability.tolist() == [0, 1]


# Mask2Former: masked attention to several levels.


@pytest.mark.parametrize("neck", ["deformable", "fpn"])
def test_masked_attention_learns_masks_and_words_over_any_neck(encoder, neck):
    torch.manual_seed(0)
    pixels = PixelEncoder.build(backbone="tiny", pretrained=False, channels=16, neck=neck)
    method = LMSeg(pixels, (A, B), decoder="mask2former", text=encoder, **(SMALL | {"blocks": 3})).train()
    losses = method([batch(A, blocks(A)), batch(B, blocks(B))])
    sum(losses.values()).backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.no_grad():
        features = method.eval().pixel_encoder(image(size=(50, 70)))
        assert method.predict(features, B).shape == (2, 3, 13, 18)
        assert len(method.segments(features, A, (50, 70), SegmentOptions())) == 2


def test_a_head_of_as_many_classes_starts_from_the_published_one(small, tmp_path):
    from safetensors.torch import save_file

    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "EomtConfig"):
        pytest.skip("this release of transformers has no EoMT")
    config = transformers.EomtConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=64, num_blocks=2, num_queries=5,
        num_labels=2,
    )  # fmt: skip
    published = transformers.EomtForUniversalSegmentation(config)
    save_file(published.state_dict(), tmp_path / "model.safetensors")

    def start(queries):
        pixels = PixelEncoder.build(
            backbone="vit_small_patch14_reg4_dinov2", patch_size=16, image_size=64, init=str(tmp_path)
        )
        return LMSeg(pixels, (A, B), decoder="eomt", queries=queries, blocks=2, classifier="heads", attention_heads=4)

    method = start(5)
    # A has two classes as the published network has, B three.
    assert torch.equal(method.classes.layers[0].weight, published.class_predictor.weight)
    assert torch.equal(method.decoder.initial_queries, published.query.weight)
    assert "its classes start 1 heads" in method.pixel_encoder.backbone.loaded
    with pytest.raises(
        UserError, match=r"initial_queries \[5, 32\], not \[7, 32\]\); set method\.decoder, method\.queries"
    ):
        start(7)

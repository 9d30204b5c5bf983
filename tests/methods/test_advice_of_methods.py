"""What messages of methods advise works: each is provoked, and its advice followed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from advice import follow
from words import write_encoder

from manyseg import testing
from manyseg.inference.options import SegmentOptions
from manyseg.labels import LabelClass, LabelSpace, Taxonomy
from manyseg.methods import find_method
from manyseg.methods.label_features import label_features
from manyseg.models import PixelEncoder
from manyseg.relate.statistics import Statistics
from manyseg.relate.unseen import relate_by_names
from manyseg.runs.recipe import read_recipe

SPACES = testing.toy_spaces()
FINE, COARSE, PARTIAL = SPACES
WORDS = [*(w for s in SPACES for n in s.names for w in n.split()), "background", "a", "of"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("bert"), WORDS)


def build(name, spaces=SPACES, channels=16, **options):
    pixel_encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=channels)
    return find_method(name)(pixel_encoder, spaces, **options)


LMSEG = {"classifier": "heads", "queries": 4, "blocks": 1, "attention_heads": 2}
SPLIT = Taxonomy.from_groups((FINE,), [[("fine", n)] for n in ("road", "road", "sky", "car", "truck")], list("abcde"))
JOINED = Taxonomy.from_groups((FINE,), [[("fine", "road"), ("fine", "sky")], [("fine", "car")], [("fine", "truck")]])
ONE = {"spaces": (FINE,), "taxonomy": SPLIT}

OPTIONS = [
    ("multihead", {"scale": 0.0}, "method.scale is 0.0; .* 1 leaves them alone", {"scale": 1.0}),
    ("union", {"ohem": 7.0}, "method.ohem is 7.0; .* 0.7 is usual", {"ohem": 0.7}),
    ("manual", ONE | {"competitors": "x"}, "competitors is 'x'; choose 'all' or 'own'", ONE | {"competitors": "own"}),
    ("manual", ONE | {"split": "x"}, "split is 'x'; choose 'union', 'ignore' or 'refuse'", ONE | {"split": "ignore"}),
    ("manual", ONE | {"split": "refuse"}, "set method.split to 'union' or", ONE | {"split": "union"}),
    ("manual", ONE | {"split": "refuse"}, "or give each one node", {"taxonomy": Taxonomy.disjoint(SPACES)}),
    ("manual", {"taxonomy": "stage:x"}, "give a table or a Taxonomy", {"taxonomy": Taxonomy.disjoint(SPACES)}),
    (
        "manual",
        {"taxonomy": SPLIT},
        "the taxonomy relates the label spaces of fine, the recipe those of fine, coarse, partial; give one of the",
        {"taxonomy": Taxonomy.disjoint(SPACES)},
    ),
    ("htss", {"gate": "x"}, "method.gate is 'x'; choose 'parent', 'chain' or 'none'", {"gate": "chain"}),
    ("htss", {"deeper_weight": 0.0}, "give a positive number, 0.1 is usual", {"deeper_weight": 0.1}),
    ("joint", {"own": 1.0}, "give a share between 0 and 1, 0.5 is usual", {"own": 0.5}),
    ("uniseg", {"support": "x"}, "choose 'null' or 'all'", {"support": "all"}),
    ("uniseg", {"scale": 0.0}, "it multiplies cosines, 20 is usual", {"scale": 20.0}),
    ("uniseg", {"tau": 7}, "give a cosine, -1 to 1, or 'calibrated'", {"tau": "calibrated"}),
    ("uniseg", {"statistics": "stage:x"}, "give a file or Statistics", {}),
    ("unified_nodes", {"init": "confusion"}, "or choose text, names, disjoint or a table", {"init": "names"}),
    (
        "unified_nodes",
        {"spaces": (FINE,), "init": JOINED},
        "1 nodes have several classes of 'fine' .*: give each class a row of its own",
        {"spaces": (FINE,), "init": Taxonomy.disjoint((FINE,))},
    ),
    ("lmseg", LMSEG | {"queries": 0}, "method.queries is 0; give 1 or more", LMSEG | {"queries": 1}),
    ("lmseg", LMSEG | {"attention_heads": 5}, "make it a multiple", LMSEG | {"attention_heads": 5, "channels": 20}),
    ("lmseg", LMSEG | {"attention_heads": 5}, "or set other ones", LMSEG | {"attention_heads": 4}),
    ("lmseg", LMSEG | {"semantic": "x"}, "choose 'log' or 'sum'", LMSEG | {"semantic": "sum"}),
    ("lmseg", LMSEG | {"other_words": 2.0}, "it is a probability, 0 to 1", LMSEG | {"other_words": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wrong", "said", "right"), OPTIONS)
def test_options_are_taken_as_advised(name, wrong, said, right):
    follow(lambda: build(name, **wrong), said, lambda: build(name, **right))


WORDED = [
    ({"template": "a"}, "method.template is 'a'; it must have {} where the name goes", {"template": "a {}"}),
    ({"temperature": 0.0}, "the first is to be above 0", {"temperature": 0.1}),
    ({"prompt_tokens": -1}, "prompt_tokens -1; .* the second 0 or more", {"prompt_tokens": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "said", "right"), WORDED)
def test_options_of_words_are_taken_as_advised(encoder, wrong, said, right):
    common = LMSEG | {"classifier": "text", "text": encoder, "prompt_tokens": 0}
    follow(lambda: build("lmseg", **(common | wrong)), said, lambda: build("lmseg", **(common | right)))


@pytest.mark.parametrize(("name", "steps"), [("uniseg", 2), ("unified_nodes", 2), ("autouniseg", 4)])
def test_stages_have_the_steps_that_they_are_said_to_need(name, steps):
    def plan(n):
        data = {"sets": [{"card": "a.toml", "root": "a"}]}
        return read_recipe({"data": data, "method": {"name": name}, "train": {"steps": n}}).stages

    stages = follow(lambda: plan(1), f"(give|needs) {steps} (or more|at least)", lambda: plan(steps))
    assert sum(stage.train.steps for stage in stages) == steps


@pytest.mark.parametrize("name", ["manual", "lmseg"])
@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (FINE.classes[:2], "it has 2 classes, not 4"),
        ((LabelClass("path"), *FINE.classes[1:]), "its class 0 is 'path', not 'road'"),
        ((*FINE.classes[:3], LabelClass("truck", thing=True)), "'truck' is a thing, not stuff"),
        ((*FINE.classes[:3], LabelClass("truck", description="large")), "'truck' has another description"),
        ((*FINE.classes[:3], LabelClass("truck", synonyms=("lorry",))), "'truck' has other synonyms"),
    ],
)
def test_a_space_that_differs_from_the_one_of_its_name_says_how_and_is_taken_as_advised(name, classes, said):
    options = LMSEG if name == "lmseg" else {"taxonomy": Taxonomy.disjoint(SPACES)}
    method, image = build(name, **options).eval(), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    space = replace(FINE, classes=classes)
    scores = follow(
        lambda: testing.predict(method, image, space),
        f"'fine' is not the label space of this model that has its name: {said}; take the model's own, taxonomy.space",
        lambda: testing.predict(method, image, method.taxonomy.space("fine")),
    )
    assert scores.shape[1] == 4
    relation = torch.from_numpy(relate_by_names(space, method.taxonomy))
    assert testing.predict(method, image, space, relation).shape[1] == len(space)


def test_a_space_of_another_name_is_related_as_advised():
    method, image = build("union").eval(), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    space = LabelSpace.of("fin", ["road"])
    follow(
        lambda: testing.predict(method, image, space),
        r"did you mean 'fine'\? \(fine, coarse, partial, unified\); .* or give a relation too \(manyseg.relate.unseen",
        lambda: testing.predict(method, image, space, torch.from_numpy(relate_by_names(space, method.taxonomy))),
    )


def test_a_taxonomy_of_other_flags_says_so_and_the_table_of_the_recipe_is_taken():
    things = replace(FINE, classes=(*FINE.classes[:3], LabelClass("truck", thing=True)))
    follow(
        lambda: build("manual", (FINE,), taxonomy=Taxonomy.disjoint((things,))),
        "spaces of fine, but 'fine' differs: 'truck' is stuff, not a thing; give one of the recipe's, in order",
        lambda: build("manual", (FINE,), taxonomy=Taxonomy.disjoint((FINE,))),
    )


def test_words_are_of_methods_that_read_them():
    method, space = build("union").eval(), LabelSpace.of("w", ["road"])
    features = method.pixel_encoder(torch.zeros(1, 3, 32, 32))
    advised = "reads no words; give it a label space that it knows"
    follow(lambda: method.word_vectors(space), advised, lambda: method.predict(features, FINE))
    follow(lambda: method.predict_words(features, torch.zeros(2, 3)), advised, lambda: method.predict(features, FINE))


def test_objects_are_found_by_the_method_that_is_advised():
    def segments(method):
        return method.segments(method.pixel_encoder(torch.zeros(1, 3, 32, 32)), FINE, (32, 32), SegmentOptions())

    union, lmseg = build("union").eval(), build("lmseg", **LMSEG).eval()
    follow(lambda: segments(union), "panoptic results need the method lmseg", lambda: segments(lmseg))


def test_the_word_for_no_object_is_renamed_as_advised():
    spaces = LabelSpace.of("a", ["road", "background"]), LabelSpace.of("a", ["road", "other"])
    first, second = (lambda s=s: build("lmseg", (s,), **(LMSEG | {"classifier": "text"})) for s in spaces)
    follow(first, "'a' has a class 'background', .*; rename it in the card", second)


def statistics(**shapes):
    def table(shape):
        return np.ones(shape, np.int64)

    return Statistics(
        "key",
        {(name, "unified"): table(shape) for name, shape in shapes.items()},
        {name: table(shape[0]) for name, shape in shapes.items()},
        {name: np.zeros(shape) for name, shape in shapes.items()},
        {(name, "unified"): table(shape[1]) for name, shape in shapes.items()},
        {name: np.arange(2, dtype=np.uint64) for name in shapes},
    )


def test_statistics_are_of_the_same_datasets_as_advised():
    follow(
        lambda: build("uniseg", (FINE,), statistics=statistics(fine=(3, 4))),
        "the sums of 'fine' are 3x4, expected 4x4; collect them with a UniSeg model of the same datasets",
        lambda: build("uniseg", (FINE,), statistics=statistics(fine=(4, 4))),
    )
    table, wrong = Taxonomy.disjoint((FINE,)), statistics(fine=(4, 5))
    said = r"is to be \[4, 4\], the statistics hold \[4, 5\]; give those of a model of the same table, or none"
    for right in (statistics(fine=(4, 4)), None):
        follow(
            lambda: build("unified_nodes", (FINE,), init=table, statistics=wrong),
            said,
            lambda right=right: build("unified_nodes", (FINE,), init=table, statistics=right),
        )


@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        ({}, "give an .npy or an .npz by dataset", {"fine": (4, 2), "coarse": (3, 2), "partial": (2, 2)}),
        ({"fine": (4, 2)}, "give an .npy or an .npz by dataset", (9, 2)),
        (
            {"fine": (5, 2), "coarse": (3, 2), "partial": (2, 2)},
            r"'fine' is \[5, 2\]; give one row a class",
            {"fine": (4, 2), "coarse": (3, 2), "partial": (2, 2)},
        ),
        ((5, 2), "give 9 finite rows, one for each class", (9, 2)),
    ],
)
def test_features_of_labels_are_read_as_advised(tmp_path, wrong, said, right):
    def given(shape):
        file = tmp_path / ("f.npz" if isinstance(shape, dict) else "f.npy")
        if isinstance(shape, dict):
            np.savez(file, **{name: np.ones(size) for name, size in shape.items()})
        else:
            np.save(file, np.ones(shape))
        return label_features(SPACES, file, None, None, centre=False)

    assert len(follow(lambda: given(wrong), said, lambda: given(right))) == 9

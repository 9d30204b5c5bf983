"""What messages of evaluations advise works."""

import pytest
import torch
from advice import follow
from echo import PARK, STREET, Echo, write

from manyseg import testing
from manyseg.data import load
from manyseg.data.annotation import Tags
from manyseg.evaluation.evaluate import evaluate, score_mapped, score_seen
from manyseg.evaluation.gradient_conflict import measure_conflicts
from manyseg.labels import Taxonomy
from manyseg.methods.baselines import MultiHead, Union

TAXONOMY = Taxonomy.disjoint([STREET, PARK])
PAIRS = [([[0, 1]], [[0, 1]])] * 2


@pytest.fixture
def method():
    return Echo(TAXONOMY)


def test_each_protocol_has_what_it_needs_as_advised(tmp_path, method):
    hills = write(tmp_path, "hills", ["road", "car"], PAIRS)
    fit = write(tmp_path, "hills", ["road", "car"], PAIRS, "train")
    by_names = lambda: evaluate(method, [hills], relate="names")  # noqa: E731
    encode = lambda texts: torch.eye(len(texts), dtype=torch.float64).numpy()  # noqa: E731
    for fails, said, ways in (
        (
            lambda: evaluate(method, [hills], relate="labels"),
            "no labelled images to fit the map of 'hills'; give another split of it, or use names",
            (lambda: evaluate(method, [hills], relate="labels", fit={"hills": fit}), by_names),
        ),
        (
            lambda: evaluate(method, [hills], relate="text"),
            "needs a text encoder; give one, or use names",
            (lambda: evaluate(method, [hills], relate="text", encode=encode), by_names),
        ),
        (lambda: score_seen(method, hills), "relate it by names, text or labels", (by_names,)),
        (
            lambda: score_mapped(method, hills, hills),
            "2 of 2 images of 'hills' to be scored would also fit its map; score another split than 'val'",
            (lambda: score_mapped(method, hills, fit),),
        ),
        (
            lambda: evaluate(method, [hills, hills]),
            "'hills' is to be evaluated twice; evaluate one split and protocol at a time",
            (lambda: [evaluate(method, [hills]), evaluate(method, [fit])],),
        ),
    ):
        for works in ways:
            follow(fails, said, works)


def test_a_map_is_fitted_on_a_split_of_one_card_as_advised(tmp_path, method):
    hills, other = (write(tmp_path, name, ["road", "car"], PAIRS) for name in ("hills", "dales"))
    fit = write(tmp_path, "hills", ["road", "car"], PAIRS, "train")
    said = "the map of 'hills' cannot be fitted on 'dales'; give a split of one card"
    follow(lambda: score_mapped(method, hills, other), said, lambda: score_mapped(method, hills, fit))


def test_a_card_of_other_classes_is_exchanged_or_renamed_as_advised(tmp_path, method):
    wrong = write(tmp_path / "a", "street", ["road", "sky"], PAIRS)
    said = "use the card of the run, or rename the card to evaluate it as unseen"
    for name, classes in (("street", STREET.names), ("avenue", ["road", "sky"])):
        right = write(tmp_path / "b", name, classes, PAIRS)
        follow(lambda: evaluate(method, [wrong]), said, lambda right=right: evaluate(method, [right]))


def test_a_dataset_of_tags_is_scored_on_a_split_with_masks_as_advised(tmp_path, method):
    right = write(tmp_path, "street", STREET.names, PAIRS)
    wrong = load(tmp_path / "street.toml", tmp_path / "street", "val", annotation="tags")
    follow(lambda: score_seen(method, wrong), "give a split with masks", lambda: score_seen(method, right))


def test_files_that_are_all_bad_are_corrected_as_advised(tmp_path, method):
    folder = write(tmp_path, "street", STREET.names, PAIRS)
    for path in (tmp_path / "street/masks").iterdir():
        path.unlink()
    follow(
        lambda: evaluate(method, [folder], skip_bad=True),
        "all 2 images are bad, so none is skipped; correct them .`manyseg data` names each fault",
        lambda: evaluate(method, [write(tmp_path, "street", STREET.names, PAIRS)], skip_bad=True),
    )


def test_conflicts_are_measured_as_advised():
    batches = testing.toy_batches(0)
    measure = lambda kind, step: measure_conflicts(testing.build(kind), [step])  # noqa: E731
    tagged = batches[0]._replace(annotation=Tags(torch.ones(2, 4, dtype=torch.bool)))
    for kind, step, said in (
        (MultiHead, batches, "measure conflicts on a run of uniseg or union"),
        (Union, batches[:1], "measure a run of several"),
        (Union, (tagged, batches[1]), "measure conflicts on a run of masks"),
    ):
        follow(lambda kind=kind, step=step: measure(kind, step), said, lambda: measure(Union, batches))

"""The built-in cards, each on a tiny tree in the layout of the official archive."""

import pytest
from official_layouts import CASES, write_tree

from manyseg.data import builtin_cards, load, read_card
from manyseg.labels import IGNORE, Taxonomy

COUNTS = {
    "cityscapes": 19, "cityscapes_panoptic": 19, "mapillary_v1_2": 65, "mapillary_v2_0": 116, "bdd100k": 19, "idd": 26,
    "sunrgbd37": 37, "ade20k": 150, "coco_stuff": 171, "coco_panoptic": 133, "wilddash2": 76, "kitti": 19,
    "camvid32": 31, "camvid11": 11, "scannet20": 20, "voc2012": 21, "pascal_context59": 59, "ade20k_panoptic": 150,
    "coco_stuff10k": 171, "mapillary_v1_2_panoptic": 65, "mapillary_v2_0_panoptic": 116, "wilddash2_evaluation": 26,
    "gtsdb": 43, "open_images_streets": 9, "open_images_street_tags": 9,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_card_reads_the_official_layout(name, tmp_path):
    case = CASES[name]
    write_tree(tmp_path, name)
    card = read_card(name)
    assert set(card.splits) == {*case.ids, *(["val"] if name == "gtsdb" else [])}
    positions = [IGNORE if n is None else card.space.positions[n] for n in case.expected]
    for split, ids in case.ids.items():
        folder = load(name, tmp_path, split)
        assert list(folder.ids) == ids
        if split in case.images:
            found = sorted(str(folder.image_path(i).relative_to(tmp_path)) for i in range(len(ids)))
            assert found == sorted(case.images[split])
        for i in range(len(ids)):
            if case.masks:
                assert folder.read(i).annotation.labels.tolist() == [positions, positions]
            elif i == 0:
                assert folder.read(i).annotation.classes.tolist() == positions


def test_instances_of_the_same_class_are_segments_of_their_own(tmp_path):
    things = {
        "cityscapes_panoptic": "car",
        "coco_panoptic": "person",
        "mapillary_v1_2_panoptic": "Car",
        "mapillary_v2_0_panoptic": "Car",
    }
    for name, thing_name in things.items():
        write_tree(tmp_path / name, name)
        folder = load(name, tmp_path / name)
        thing = folder.space.positions[thing_name]
        assert folder.read(0).annotation.classes.tolist().count(thing) == 2


def test_every_card_is_tested_and_named_after_its_file():
    assert set(CASES) == set(builtin_cards()) == set(COUNTS)
    for name in builtin_cards():
        card = read_card(name)
        assert card.name == name
        assert len(card.space) == COUNTS[name]


@pytest.mark.parametrize(
    ("cards", "nodes"),
    [
        (("cityscapes", "idd", "bdd100k"), 28),
        (("cityscapes", "idd", "bdd100k", "mapillary_v1_2"), 70),
        (("cityscapes", "idd", "mapillary_v1_2"), 70),
        (("idd", "bdd100k", "mapillary_v1_2"), 70),
        (("bdd100k", "mapillary_v1_2", "cityscapes"), 67),
    ],
)
def test_the_union_of_names_has_as_many_nodes_as_the_authors_of_uniseg_have(cards, nodes):
    taxonomy = Taxonomy.by_name([read_card(card).space for card in cards])
    assert len(taxonomy.unified) == nodes
    united = [dict(taxonomy.members(u)) for u in range(nodes)]
    if "idd" in cards and "mapillary_v1_2" in cards:
        pairs = {(m["idd"], m["mapillary_v1_2"]) for m in united if {"idd", "mapillary_v1_2"} <= m.keys()}
        assert {("person / animal", "Person"), ("parking / drivable fallback", "Parking")} <= pairs
        assert {("bridge / tunnel", "Bridge"), ("traffic sign", "Traffic Sign (Front)")} <= pairs

import numpy as np
from PIL import Image

from manyseg.data.world import CAMERAS, CONCEPTS, DATASETS, scene, space, truth, write_world
from manyseg.labels import Taxonomy


def test_the_planted_taxonomy_has_a_node_for_every_concept_and_plants_each_conflict():
    t = truth()
    assert t.unified.names == CONCEPTS
    assert t.members(CONCEPTS.index("lane marking")) == [
        ("fine", "lane marking"), ("coarse", "road"), ("partial", "road paint"),
    ]  # fmt: skip
    assert t.members(CONCEPTS.index("traffic cone")) == [("partial", "traffic cone")]
    assert all(t.exclusive(s.name) for s in t.spaces)


def test_every_concept_occurs_and_instances_lie_on_things():
    seen = set()
    for i in range(20):
        image, concept, instance = scene(CAMERAS[0], (48, 64), np.random.default_rng(i))
        assert image.shape == (48, 64, 3)
        seen |= set(np.unique(concept))
        things = np.isin(concept, [CONCEPTS.index(n) for n in ("car", "truck", "person", "traffic cone")])
        np.testing.assert_array_equal(instance > 0, things)
    assert seen == set(range(len(CONCEPTS)))


def test_the_same_seed_writes_the_same_files_and_cards(tmp_path):
    a = write_world(tmp_path / "a", train=2, val=1, size=(24, 32), seed=3)
    b = write_world(tmp_path / "b", train=2, val=1, size=(24, 32), seed=3)
    for name in DATASETS:
        for file in sorted((a.folder / name).rglob("*.png")):
            assert file.read_bytes() == (b.folder / name / file.relative_to(a.folder / name)).read_bytes()
    assert Taxonomy.read(a.truth, [space(n) for n in ("fine", "coarse", "partial")]).unified.names == CONCEPTS


def test_masks_hold_positions_of_the_dataset_and_255_where_it_does_not_label(tmp_path):
    folder = write_world(tmp_path, train=8, val=1, size=(48, 64)).folder
    values = {
        name: set(np.unique([np.asarray(Image.open(p)) for p in (folder / name / "masks").glob("*.png")]))
        for name in DATASETS
    }
    assert values["partial"] <= {*range(7), 255}
    assert 255 in values["partial"]
    assert values["coarse"] - {255} == set(range(6))


def test_a_world_of_other_labels_has_its_own_truth(tmp_path):
    labels = {"a": {"up": ("sky", "building"), "down": ("road",)}, "b": {"way": ("road",)}, "c": {"tree": ("tree",)}}
    world = write_world(tmp_path, train=1, val=1, size=(24, 32), labels=labels)
    found = Taxonomy.read(world.truth, [space(n, labels) for n in ("a", "b")])
    assert found.unified.names == ("sky", "building", "road")
    assert found.members(2) == [("a", "down"), ("b", "way")]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["a", "b", "c"]

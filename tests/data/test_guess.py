"""From a folder to a card: every layout is read as it is, checked, and trained on."""

import json
import re
import tomllib
import zlib

import layouts
import numpy as np
import pytest
import torch
from layouts import NAMES, mask, photo, photos, text
from typer.testing import CliRunner

from manyseg.cli import app
from manyseg.data import load, read_card
from manyseg.data.check import check
from manyseg.data.guess import guess
from manyseg.data.guess.tree import pairings
from manyseg.data.mixture import Mixture
from manyseg.data.options import DataOptions
from manyseg.errors import UserError
from manyseg.labels import IGNORE
from manyseg.methods import find_method
from manyseg.models import PixelEncoder

# What is under no object: without a label, or the third class of the card.
LAYOUTS = {
    "grey": ("index", ("background", "class 1"), IGNORE),
    "grey_named": ("index", ("road", "car"), IGNORE),
    "palette": ("index", ("background", "class 1", "class 2"), 2),
    "color": ("color", ("color 804080", "color 00008e", "background"), 2),
    "color_table": ("color", ("road", "car"), IGNORE),
    "cvat_masks": ("color", ("road", "car", "background"), 2),
    "roboflow_masks": ("index", ("road", "car", "background"), 2),
    "config_json": ("index", ("road", "car"), IGNORE),
    "labelme": ("labelme", ("road", "car"), IGNORE),
    "supervisely": ("supervisely", ("road", "car"), IGNORE),
    "yolo": ("yolo_segments", ("road", "car"), IGNORE),
    "yolo_boxes": ("yolo_boxes", ("road", "car"), IGNORE),
    "polygon_json": ("polygon_json", ("road", "car"), IGNORE),
    "ade_full": ("ade_full", ("road, route", "car, auto"), IGNORE),
    "coco": ("coco_instances", ("road", "car"), IGNORE),
    "roboflow_coco": ("coco_instances", ("road", "car"), IGNORE),
    "cvat_coco": ("coco_instances", ("road", "car"), IGNORE),
    "coco_panoptic": ("coco_panoptic", ("road", "car"), IGNORE),
    "cvat_images": ("cvat_images", ("road", "car"), IGNORE),
    "label_studio": ("label_studio", ("road", "car"), IGNORE),
    "voc_boxes": ("voc_boxes", ("road", "car"), IGNORE),
    "voc_masks": ("index", ("class 1", "class 2"), IGNORE),
    "cityscapes": ("polygon_json", ("road", "car"), IGNORE),
    "label_studio_coco": ("coco_instances", ("road", "car"), IGNORE),
}

TRAINED = (*LAYOUTS, "parquet")


@pytest.fixture(scope="module")
def guessed(tmp_path_factory):
    """The trees of all layouts, with the cards that were guessed for them."""
    place = tmp_path_factory.mktemp("guessed")
    for name in TRAINED:
        getattr(layouts, name)(place / name)
        guess(place / name)[0].write(place / "cards" / f"{name}.toml")
    return place


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_card_of_a_layout_passes_the_check_and_gives_the_labels_that_were_drawn(guessed, name):
    encoding, classes, background = LAYOUTS[name]
    path, root = guessed / "cards" / f"{name}.toml", guessed / name
    card = read_card(path)
    assert (card.encoding, sorted(card.space.names)) == (encoding, sorted(classes))
    assert {"train", "val"} <= set(card.splits)
    assert [f for f in check(card, root) if f.severity == "error"] == []
    order = [*(card.space.positions[c] for c in classes), IGNORE]
    seen = []
    for split in card.splits:
        folder = load(path, root, split, "boxes" if card.kind == "boxes" else "dense")
        for i in range(len(folder)):
            k = next(k for k, n in enumerate(NAMES) if n[-2:] in folder.ids[i])
            seen.append(k)
            annotation = folder.read(i).annotation
            if card.kind == "boxes":
                boxes = dict(zip(annotation.classes.tolist(), annotation.boxes.round().int().tolist(), strict=True))
                assert boxes == {order[c]: list(box(k)) for c, (_, box) in enumerate(layouts.OBJECTS)}
            else:
                truth = layouts.truth(k, background)
                assert np.array_equal(annotation.labels.numpy(), np.array(order)[truth])
    assert sorted(seen) == list(range(len(NAMES)))


def test_one_step_of_training_runs_on_the_cards_of_all_layouts(guessed):
    sets = [{"card": f"cards/{name}.toml", "root": name, "per_step": 1} for name in TRAINED]
    batches = Mixture.open(DataOptions(sets=sets, crop=(32, 32)), guessed, seed=0)[0]
    assert [b.space.name for b in batches] == list(TRAINED)
    pixels = PixelEncoder.build(backbone="tiny", pretrained=False, channels=8)
    method = find_method("multihead")(pixels, [b.space for b in batches])
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    total = torch.stack(list(method(batches).values())).sum()
    total.backward()
    optimizer.step()
    assert total.isfinite()


def data(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_a_card_says_what_was_seen_what_is_unsure_and_how_often_each_class_occurs(guessed):
    card = (guessed / "cards" / "grey.toml").read_text()
    assert "# Seen: 6 pairs images/{id}.jpg and masks/{id}.png; modes of the masks: 6 L" in card
    assert "# ? no table of classes was found" in card
    assert '"class 1" = 1  # 576 pixels (4.0%), in 6 images' in card
    assert "ignore = [255]  # 50.0% of the pixels have no label" in card


def test_several_candidates_are_listed_and_one_can_be_chosen(guessed, tmp_path):
    listed = data("--guess", guessed / "cvat_masks")
    assert listed.exit_code == 0
    assert "* 1. colour masks" in listed.output
    assert "  2. colour masks" in listed.output
    assert 'mask = "SegmentationClass/{id}.png"' in listed.output
    chosen = data("--guess", guessed / "cvat_masks", "--choice", 2, "-o", tmp_path / "b.toml")
    assert chosen.exit_code == 0
    assert read_card(tmp_path / "b.toml").mask == "SegmentationObject/{id}.png"
    with pytest.raises(UserError, match="there are 2 candidates; give a number from 1 to 2"):
        CliRunner().invoke(
            app, ["data", "--guess", str(guessed / "cvat_masks"), "--choice", "3"], catch_exceptions=False
        )


def test_a_card_or_a_list_that_is_there_is_not_replaced_unless_asked(guessed, tmp_path):
    (tmp_path / "a.val.txt").write_text("mine\n")
    again = ("--guess", guessed / "grey", "-o", tmp_path / "a.toml")
    with pytest.raises(UserError, match=r"a\.val\.txt: is there already; choose another name, or .* --force"):
        CliRunner().invoke(app, ["data", *map(str, again)], catch_exceptions=False)
    assert [p.name for p in tmp_path.iterdir()] == ["a.val.txt"]
    assert data(*again, "--force").exit_code == 0
    assert data(tmp_path / "a.toml", guessed / "grey").exit_code == 0


def test_a_folder_of_nothing_known_is_an_error_that_says_what_was_looked_for_and_found(tmp_path):
    photos(tmp_path, "photos/{}.jpg")
    text(tmp_path / "notes.pdf", "x")
    with pytest.raises(UserError, match=r"looked for .* found 6 \.jpg, 1 \.pdf, in photos; write a card"):
        guess(tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        guess(tmp_path / "nowhere")


# Splits.


def masked(root, names, image="images/{}.jpg", label="masks/{}.png"):
    for i, name in enumerate(names):
        photo(root / image.format(name), zlib.crc32(name.encode()))
        mask(root / label.format(name), layouts.index(i % 6))


def lists_of(root, tmp_path):
    """The ids of every list that is written beside the card."""
    written = guess(root)[0].write(tmp_path / "c.toml")
    card = tomllib.loads(written[-1].read_text())
    return {k: (tmp_path / v).read_text().split() for k, v in card["splits"].items()}, card


def test_proposed_splits_keep_the_frames_of_a_sequence_together(tmp_path):
    names = [f"seq{s}_{f:04}" for s in range(10) for f in range(4)]
    masked(tmp_path / "d", names)
    lists, _ = lists_of(tmp_path / "d", tmp_path)
    assert sorted(lists["train"] + lists["val"]) == names
    assert {n[:5] for n in lists["train"]} & {n[:5] for n in lists["val"]} == set()
    assert len(lists["val"]) == 8


def test_copies_of_one_photo_that_a_tool_augmented_are_in_one_split(tmp_path):
    names = [f"a{p}x_jpg.rf.{c:032x}" for p in range(10) for c in range(3)]
    masked(tmp_path / "d", names)
    lists, _ = lists_of(tmp_path / "d", tmp_path)
    assert {n[:3] for n in lists["train"]} & {n[:3] for n in lists["val"]} == set()


def test_one_series_of_numbers_is_cut_at_its_end_in_the_order_of_numbers(tmp_path):
    masked(tmp_path / "d", [f"frame{i}" for i in range(1, 13)])
    lists, _ = lists_of(tmp_path / "d", tmp_path)
    assert lists["val"] == ["frame11", "frame12"]


def test_lists_of_the_folder_are_used_and_those_of_paths_are_translated(tmp_path):
    masked(tmp_path / "d", NAMES)
    text(tmp_path / "d/ImageSets/Segmentation/train.txt", "\n".join(NAMES[:4]))
    text(tmp_path / "d/ImageSets/Segmentation/val.txt", "\n".join(f"/images/{n}.jpg /masks/{n}.png" for n in NAMES[4:]))
    written = guess(tmp_path / "d")[0].write(tmp_path / "c.toml")
    card = read_card(written[-1])
    assert card.splits == {"train": "ImageSets/Segmentation/train.txt", "val": "c.val.txt"}
    assert load(card, tmp_path / "d", "val").ids == tuple(NAMES[4:])


def test_photos_without_a_mask_are_left_out_by_lists_and_named(tmp_path):
    masked(tmp_path / "d", NAMES[:4], "train/{}.jpg", "train_masks/{}.png")
    masked(tmp_path / "d", NAMES[4:], "valid/{}.jpg", "valid_masks/{}.png")
    photo(tmp_path / "d/train/alone.jpg", 7)
    candidate = guess(tmp_path / "d")[0]
    assert "1 images have no annotation and are left out, such as train/alone.jpg" in candidate.text(
        tmp_path / "c.toml"
    )
    card = read_card(candidate.write(tmp_path / "c.toml")[-1])
    assert load(card, tmp_path / "d", "train").ids == tuple(sorted(f"train/{n}" for n in NAMES[:4]))
    assert [f for f in check(card, tmp_path / "d") if f.severity == "error"] == []


def test_photos_with_another_ending_than_most_are_counted(tmp_path):
    masked(tmp_path / "d", NAMES)
    (tmp_path / f"d/images/{NAMES[0]}.jpg").rename(tmp_path / f"d/images/{NAMES[0]}.jpeg")
    unsure = guess(tmp_path / "d")[0].unsure
    left_out = (
        f"1 pictures with another ending are left out, such as images/{NAMES[0]}.jpeg; give all photos one ending"
    )
    assert left_out in unsure


def test_masks_in_folders_of_scenes_are_paired_by_scene_and_frame(tmp_path):
    for scene in ("s1", "s2", "s3"):
        masked(tmp_path / "d", ["0", "1"], f"{scene}/color/{{}}.jpg", f"{scene}/label/{{}}.png")
    card = read_card(guess(tmp_path / "d")[0].write(tmp_path / "c.toml")[-1])
    assert (card.image, card.mask) == ("{scene}/color/{frame}.jpg", "{scene}/label/{frame}.png")


def names_of(root_pattern, scenes, frames):
    return [root_pattern.format(s=s, f=f) for s in range(scenes) for f in range(frames)]


@pytest.mark.parametrize(
    ("image", "other"),
    [
        ("a/{{split}}/c{s:02}/c{s:02}_{f:06}_000019_left8bit.png", "b/{{split}}/c{s:02}/c{s:02}_{f:06}_000019_ids.png"),
        ("s{s:04}/color/{f:06}.jpg", "s{s:04}/label/{f:06}.png"),
        ("images/s{s:04}/{f:06}.png", "labels/s{s:04}/{f:06}.png"),
        ("img_{s:03}_{f:03}.jpg", "mask_{s:03}_{f:03}.png"),
    ],
)
def test_names_that_recur_in_many_folders_are_paired_within_their_own(image, other):
    images, others = ([n.replace("{split}", "train") for n in names_of(p, 60, 4)] for p in (image, other))
    best = pairings(images + others, images + others)
    pair = next(p for p in best if set(p.images.values()) == set(images))
    assert [(pair.images[p], pair.others[p]) for p in pair.both] == list(zip(images, others, strict=True))


def test_a_folder_with_a_test_split_alone_beside_train_is_evaluated_on_it(tmp_path):
    masked(tmp_path / "d", NAMES[:4], "train/{}.jpg", "train_masks/{}.png")
    masked(tmp_path / "d", NAMES[4:], "test/{}.jpg", "test_masks/{}.png")
    card = read_card(guess(tmp_path / "d")[0].write(tmp_path / "c.toml")[-1])
    assert card.splits == {"train": "train", "val": "test"}


# Files of annotations for many photos.


def sound(root, tmp_path):
    """Write the card of a folder, which must pass the check."""
    card = read_card(guess(root)[0].write(tmp_path / "c.toml")[-1])
    assert [f for f in check(card, root) if f.severity == "error"] == []
    return card


def test_categories_that_the_files_of_splits_number_differently_are_looked_up_by_name(tmp_path):
    layouts.coco(tmp_path / "d")
    path = tmp_path / "d/annotations/instances_val2017.json"
    swapped = json.loads(path.read_text())
    for category in swapped["categories"]:
        category["id"] = {1: 2, 2: 1}.get(category["id"], category["id"])
    for annotation in swapped["annotations"]:
        annotation["category_id"] = 3 - annotation["category_id"]
    text(path, swapped)
    card = sound(tmp_path / "d", tmp_path)
    assert (card.values("road"), card.values("car")) == (("road",), ("car",))
    folder = load(card, tmp_path / "d", "val", "dense")
    for i in range(len(folder)):
        labels = folder.read(i).annotation.labels.numpy()
        truth = layouts.truth(next(k for k, n in enumerate(NAMES) if n == folder.ids[i]))
        assert np.array_equal(labels == card.space.positions["car"], truth == 1)


def test_splits_may_be_files_of_annotations_for_photos_in_one_folder(tmp_path):
    photos(tmp_path / "d", "images/{}.jpg")
    photo(tmp_path / "d/images/alone.jpg", 9)
    text(tmp_path / "d/train.json", layouts.coco_json(NAMES[:4]))
    text(tmp_path / "d/val.json", layouts.coco_json(NAMES[4:]))
    card = sound(tmp_path / "d", tmp_path)
    assert (card.image, card.annotations) == ("images/{id}.jpg", "{split}.json")
    assert set(load(card, tmp_path / "d", "val").ids) == set(NAMES[4:])


def test_photos_of_a_split_that_its_file_does_not_list_are_left_out(tmp_path):
    layouts.roboflow_coco(tmp_path / "d")
    photo(tmp_path / "d/train/alone.jpg", 9)
    card = sound(tmp_path / "d", tmp_path)
    assert load(card, tmp_path / "d", "train").ids == tuple(sorted(f"train/{n}" for n in NAMES[:3]))


def test_a_single_split_of_annotations_is_divided(tmp_path):
    for name in NAMES:
        photo(tmp_path / f"d/train/{name}.jpg", NAMES.index(name))
    text(tmp_path / "d/train/_annotations.coco.json", layouts.coco_json(NAMES))
    card = sound(tmp_path / "d", tmp_path)
    assert (card.image, card.annotations) == ("train/{id}.jpg", "train/_annotations.coco.json")
    assert {len(load(card, tmp_path / "d", s)) for s in card.splits} == {1, 5}


def test_boxes_without_outlines_give_a_card_of_boxes(tmp_path):
    layouts.cvat_coco(tmp_path / "d")
    path = tmp_path / "d/annotations/instances_default.json"
    data = json.loads(path.read_text())
    text(path, {**data, "annotations": [{**a, "segmentation": []} for a in data["annotations"]]})
    assert sound(tmp_path / "d", tmp_path).encoding == "coco_boxes"


def test_images_that_the_file_lists_and_the_folder_lacks_are_counted(tmp_path):
    layouts.cvat_images(tmp_path / "d")
    (tmp_path / f"d/images/{NAMES[0]}.jpg").unlink()
    candidate = guess(tmp_path / "d")[0]
    assert "1 of the 6 images that annotations.xml names are not in the folder" in candidate.draft.unsure
    sound(tmp_path / "d", tmp_path)


def test_the_short_json_of_a_tool_and_names_of_uploads_are_understood(tmp_path):
    photos(tmp_path / "d", "images/1a2b3c4d-{}.jpg")
    tasks = []
    for i, name in enumerate(NAMES):
        size = {"original_width": layouts.W, "original_height": layouts.H}
        x0, y0, x1, y1 = layouts.car(i)
        box = {"x": 100 * x0 / 60, "y": 100 * y0 / 40, "width": 100 * (x1 - x0) / 60, "height": 100 * (y1 - y0) / 40}
        labels = [{**size, **box, "rotation": 0, "rectanglelabels": ["car"]}]
        tasks.append({"id": i, "image": f"/data/upload/1/1a2b3c4d-{name}.jpg", "label": labels, "annotator": 1})
    text(tmp_path / "d/project-1.json", tasks)
    card = sound(tmp_path / "d", tmp_path)
    assert (card.encoding, card.space.names) == ("label_studio", ("car",))


def test_text_files_of_polygons_in_folders_of_each_split_are_understood(tmp_path):
    layouts.yolo(tmp_path / "a")
    for kind in ("images", "labels"):
        for split in ("train", "val"):
            (tmp_path / "d" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "a" / kind / split).rename(tmp_path / "d" / split / kind)
    text(tmp_path / "d/data.yaml", "train: ../train/images\nval: ../val/images\nnames:\n  0: road\n  1: car\n")
    (tmp_path / f"d/train/labels/{NAMES[0]}.txt").unlink()  # No file: no object.
    card = sound(tmp_path / "d", tmp_path)
    assert (card.image, card.annotations) == ("{split}/images/{id}.jpg", "{split}/labels/{id}.txt")
    assert (card.values("road"), card.values("car"), len(load(card, tmp_path / "d"))) == ((0,), (1,), 4)


def test_pictures_of_brush_strokes_that_name_no_photo_are_refused_with_the_export_to_choose(tmp_path):
    photos(tmp_path, "images/{}.jpg")
    mask(tmp_path / "task-3-annotation-7-by-1-tag-car-0.png", layouts.index(0))
    with pytest.raises(UserError, match="export the project as JSON"):
        guess(tmp_path)


# Masks.


def test_a_palette_with_the_colours_of_a_table_takes_its_names_whatever_the_numbers(tmp_path):
    layouts.palette(tmp_path / "d")
    text(tmp_path / "d/classes.csv", "name,r,g,b\ncar,0,0,142\nroad,128,64,128\nvoid,9,9,9\n")
    card = read_card(guess(tmp_path / "d")[0].write(tmp_path / "c.toml")[-1])
    assert (card.values("road"), card.values("car"), card.ignore) == ((0,), (1,), (2,))


def test_palettes_that_differ_from_file_to_file_are_read_as_colours(tmp_path):
    photos(tmp_path / "d", "images/{}.jpg")
    for i, name in enumerate(NAMES):
        order = [layouts.ROAD, layouts.CAR, (0, 0, 0)]
        turned = order[i % 3 :] + order[: i % 3]
        values = layouts.index(i, ((0 - i) % 3, (1 - i) % 3), (2 - i) % 3)
        mask(tmp_path / f"d/masks/{name}.png", values, turned + [(0, 0, 0)] * 253)
    candidate = guess(tmp_path / "d")[0]
    assert candidate.draft.encoding == "color"
    assert {v for c in candidate.draft.classes for v in c.values} == {"#000000", "#804080", "#00008e"}


def test_numbers_of_objects_beside_masks_are_no_photos_and_are_pointed_out(tmp_path):
    layouts.grey_named(tmp_path / "d")
    for i, name in enumerate(NAMES):
        mask(tmp_path / f"d/instances/{name}.png", layouts.index(i).astype(np.uint16) * 300)
    first, second = guess(tmp_path / "d")
    assert (first.draft.arrangement.patterns["image"], first.draft.arrangement.patterns["mask"]) == (
        "images/{id}.jpg", "masks/{id}.png",
    )  # fmt: skip
    assert any('`instances = "instances/{id}.png"`' in line for line in first.unsure)
    assert second.draft.arrangement.patterns["mask"] == "instances/{id}.png"


def test_photos_that_are_as_flat_as_masks_are_told_apart_by_name(tmp_path):
    for i, name in enumerate(NAMES):
        mask(tmp_path / f"d/frames/{name}.png", layouts.colors(i))
        mask(tmp_path / f"d/gt/{name}.png", layouts.index(i))
    patterns = [c.draft.arrangement.patterns["image"] for c in guess(tmp_path / "d")]
    assert patterns == ["frames/{id}.png"]


def test_masks_of_black_and_white_are_background_and_foreground(tmp_path):
    photos(tmp_path / "d", "images/{}.jpg")
    for i, name in enumerate(NAMES):
        mask(tmp_path / f"d/masks/{name}.png", layouts.index(i, (255, 255)))
    card = read_card(guess(tmp_path / "d")[0].write(tmp_path / "c.toml")[-1])
    assert (card.values("background"), card.values("foreground")) == ((0,), (255,))


def test_values_of_class_and_object_are_read_as_instance_ids_and_photos_are_never_masks_of_others(guessed):
    found = {(c.draft.encoding, c.draft.arrangement.patterns.get("mask", "")): c for c in guess(guessed / "cityscapes")}
    assert {c.draft.arrangement.patterns["image"] for c in found.values()} == {
        "leftImg8bit/{split}/{id}_leftImg8bit.png"
    }
    numbered = found["instance_ids", "gtFine/{split}/{id}_gtFine_instanceIds.png"]
    assert [(c.name, c.values, c.thing) for c in numbered.draft.classes] == [
        ("background", (0,), False),
        ("class 7", (7,), False),
        ("class 26", (26,), True),
    ]
    assert ("index", "gtFine/{split}/{id}_gtFine_labelIds.png") in found
    assert (
        "(gtFine/{split}/{id}_gtFine_labelIds.png)"
        in found["index", "gtFine/{split}/{id}_gtFine_labelIds.png"].summary()
    )


def test_a_builtin_card_that_reads_the_files_is_named_and_no_other(guessed):
    for layout, cards in (
        ("cityscapes", ["cityscapes", "cityscapes_panoptic"]),
        ("voc_masks", ["voc2012"]),
        ("grey", []),
    ):
        said = [line for line in guess(guessed / layout)[0].unsure if "built-in" in line]
        assert [re.search("built-in card '(.+)'", line)[1] for line in said] == cards
        for name in cards:  # As advised.
            assert not [f for f in check(name, guessed / layout) if f.severity == "error"]

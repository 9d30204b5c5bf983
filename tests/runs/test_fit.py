"""What a recipe leaves open is chosen for the machine and the data, said, kept, and taken again on resuming."""

import pytest

from manyseg.config import read_toml
from manyseg.errors import UserError
from manyseg.runs import fit
from manyseg.runs.fit import Machine, choose
from manyseg.runs.recipe import read_recipe
from manyseg.runs.run import Run, train_recipe

CPU = Machine("cpu", "cpu, 2 cores")
GPU = Machine("cuda", "a GPU", memory=2**40, bf16=True)

DATA = """
[data]
workers = 0
sets = [ { card = "fine.toml", root = "fine" }, { card = "partial.toml", root = "partial" } ]
"""


@pytest.fixture
def recipe(world):
    """A recipe of [data] alone; images of the world are 48 x 64 pixels, six of each dataset."""
    path = world.folder / "data-alone.toml"
    path.write_text(DATA)
    return path


def chosen(recipe, machine, *overrides):
    return {c.key: c.value for c in choose(read_recipe(recipe, overrides), machine)}


def test_a_recipe_of_data_alone_is_completed(recipe):
    assert chosen(recipe, CPU) == {
        "method.name": "joint",
        "method.ohem": 0.7,
        "data.class_temperature": 2.0,
        "test.logit_adjustment": 0.2,
        "model.channels": 128,
        "train.lr": 0.002,
        "data.scale": [0.75, 1.5],
        "data.crop": [32, 64],
        "data.sets.0.per_step": 5,
        "data.sets.1.per_step": 5,
        "train.steps": 300,
    }


def test_one_dataset_trains_the_ordinary_model(recipe):
    path = recipe.parent / "one.toml"
    path.write_text(DATA.replace(', { card = "partial.toml", root = "partial" }', ""))
    assert chosen(path, CPU)["method.name"] == "multihead"
    assert chosen(path, CPU, "test.logit_adjustment=0")["method.name"] == "multihead"
    assert "test.logit_adjustment" not in chosen(path, CPU, "test.logit_adjustment=0")


def test_rare_classes_are_shown_more_often_where_the_recipe_does_not_say_and_labels_are_soon_counted(
    recipe, monkeypatch
):
    key = "data.class_temperature"
    assert chosen(recipe, CPU)[key] == 2
    assert key not in chosen(recipe, CPU, "data.class_temperature=1")
    assert key not in chosen(recipe, CPU, "data.sets.1.class_temperature=4")
    assert key not in chosen(recipe, CPU, "method.name=joint")
    monkeypatch.setattr(fit, "COUNTED", 11)
    assert key not in chosen(recipe, CPU)


def test_short_trainings_of_the_default_network_have_options_of_their_own(recipe):
    def short(*overrides, machine=CPU):
        return set(fit.SHORT) & set(chosen(recipe, machine, *overrides))

    assert short() == set(fit.SHORT)
    assert short("model.channels=64", "train.lr=0.1", "data.sets.1.scale=[1,1]") == set()
    assert short("train.lr=0.1") == {"model.channels", "data.scale"}
    assert short("model.backbone=resnet18") == short("method.name=union") == set()
    assert short(machine=GPU) == short('start="runs/before"') == set()


def test_without_a_text_encoder_the_label_space_starts_from_equal_names(recipe, monkeypatch):
    monkeypatch.setattr(fit, "has_offline_encoder", lambda: False)
    assert chosen(recipe, CPU)["method.taxonomy"] == "names"


def test_what_the_recipe_says_is_not_chosen(recipe):
    said = ["data.crop=40", "data.sets.0.per_step=3", "data.sets.1.per_step=1", "method.name=union", "train.steps=7"]
    assert chosen(recipe, CPU, *said) == {}
    assert chosen(recipe, GPU, *said) == {"train.precision": "bf16"}
    assert chosen(recipe, GPU, *said, "train.precision=fp32") == {}
    # Where every set has a crop of its own there is none to choose.
    own = ["data.sets.0.crop=32", "data.sets.1.crop=64"]
    assert "data.crop" in chosen(recipe, CPU, own[0])
    assert "data.crop" not in chosen(recipe, CPU, *own)


def test_a_plain_transformer_is_tested_in_windows_of_its_training_size(recipe):
    vit = ["model.backbone=vit_tiny_patch16_224", "data.crop=[48,64]"]
    assert chosen(recipe, CPU, *vit)["test.window"] == [64, 64]
    assert "test.window" not in chosen(recipe, CPU, *vit, "test.window=[32,32]")
    assert "test.window" not in chosen(recipe, CPU, "model.backbone=resnet18", "data.crop=[48,64]")


def test_images_larger_than_the_device_can_take_are_cropped_with_their_shape(recipe, monkeypatch):
    monkeypatch.setattr("manyseg.data.folder.Folder.size", lambda self, i: (1024, 2048))
    # 160 x 160 pixels in the shape 1 : 2 are 113 x 226, and 512 x 512 are 362 x 724: to the nearest multiples of 32.
    assert chosen(recipe, CPU)["data.crop"] == [128, 224]
    assert chosen(recipe, GPU, "model.backbone=tiny")["data.crop"] == [352, 736]
    # Never more than the image has.
    monkeypatch.setattr("manyseg.data.folder.Folder.size", lambda self, i: (120, 250))
    assert chosen(recipe, CPU)["data.crop"] == [96, 224]
    monkeypatch.setattr("manyseg.data.folder.Folder.size", lambda self, i: (1024, 2048))
    for machine, said in ((CPU, True), (GPU, False)):
        found = choose(read_recipe(recipe, ["model.backbone=tiny"]), machine)
        (reason,) = [c.reason for c in found if c.key == "data.crop"]
        assert ("data.short_side would show more" in reason) == said


def test_images_whose_header_cannot_be_read_are_left_to_the_check_of_the_data(recipe, monkeypatch):
    def broken(self, i):
        raise UserError("no image")

    monkeypatch.setattr("manyseg.data.folder.Folder.size", broken)
    assert chosen(recipe, GPU, "model.backbone=tiny")["data.crop"] == [512, 512]


def test_images_of_a_step_are_as_many_as_the_memory_holds_and_as_processes_share(recipe):
    tiny = ["model.backbone=tiny", "model.channels=8"]
    each = fit._activation_bytes(read_recipe(recipe, tiny)) * 32 * 64
    # The image, the levels and the neck: between its 12 bytes a pixel and a thousand numbers.
    assert 12 * 32 * 64 < each < 4000 * 32 * 64
    enough = GPU._replace(bf16=False)
    for images, expected in ((100, 8), (6.5, 3), (0.5, 1)):
        machine = enough._replace(memory=int(images * each / fit.FREE))
        assert chosen(recipe, machine, *tiny)["data.sets.1.per_step"] == expected
        # Activations of 16 bits take half.
        if images == 6.5:
            assert chosen(recipe, machine._replace(bf16=True), *tiny)["data.sets.1.per_step"] == 6
    assert chosen(recipe, CPU._replace(processes=3))["data.sets.0.per_step"] == 15


def test_steps_follow_from_the_largest_dataset(recipe, monkeypatch):
    monkeypatch.setattr(fit, "STEPS", {"cpu": (1, 100)})
    # 30 epochs of 6 images by 5; by 1; and of a mix that shares out 6 images, half of them each.
    assert chosen(recipe, CPU)["train.steps"] == 36
    assert chosen(recipe, CPU, "data.sets.0.per_step=1", "data.sets.1.per_step=2")["train.steps"] == 100
    assert chosen(recipe, CPU, "data.mix=proportional", "data.batch=6")["train.steps"] == 60


def test_it_trains_says_what_was_chosen_and_goes_on_with_it_on_another_machine(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fit, "STEPS", {"cpu": (2, 2)})
    tiny = ["model.backbone=tiny", "model.pretrained=false", "model.channels=8"]
    run = train_recipe(recipe, out=tmp_path / "run", overrides=tiny)
    said = capsys.readouterr().out
    assert 'method.name="joint"  # finds one label space for all datasets' in said
    assert "data.crop=[32, 64]  # images are 48x64 pixels at the median" in said
    tree = read_toml(run / "recipe.toml")
    assert (tree["data"]["crop"], tree["train"]["steps"], tree["train"]["precision"]) == ([32, 64], 2, "fp32")
    assert [s["per_step"] for s in tree["data"]["sets"]] == [5, 5]
    assert Run.open(run).recipe.method["name"] == "joint"
    # A machine that would choose more steps and fewer images.
    monkeypatch.setattr(fit, "STEPS", {"cpu": (9, 9)})
    monkeypatch.setattr(fit, "IMAGES", {"cpu": 2})
    train_recipe(recipe, out=run, overrides=tiny, resume=True)
    said = capsys.readouterr().out
    assert "train.steps=2  # as the run began" in said
    assert "this run is finished" in said


def test_a_run_that_began_when_less_was_chosen_goes_on_without_it(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fit, "STEPS", {"cpu": (2, 2)})
    tiny = ["model.backbone=tiny", "model.pretrained=false", "model.channels=8"]
    choose_now = fit.choose
    monkeypatch.setattr(fit, "choose", lambda *given: [c for c in choose_now(*given) if c.key != "method.ohem"])
    run = train_recipe(recipe, out=tmp_path / "run", overrides=tiny)
    monkeypatch.setattr(fit, "choose", choose_now)
    capsys.readouterr()
    train_recipe(recipe, out=run, overrides=tiny, resume=True)
    said = capsys.readouterr().out
    assert "ohem" not in said
    assert "this run is finished" in said

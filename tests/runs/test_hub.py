"""A run to the hub and back, by a stand-in of its API on the loopback."""

import json

import numpy as np
import pytest
from advice import follow
from hub_stand_in import TOKEN, connected
from huggingface_hub import constants

import manyseg
from manyseg.errors import UserError
from manyseg.runs.hub import download, pack, push
from manyseg.runs.run import train_recipe

RECIPE = """
[data]
crop = [32, 32]
workers = 0
sets = [
    { card = "fine.toml", root = "fine", per_step = 1 },
    { card = "coarse.toml", root = "coarse", per_step = 1 },
]
[model]
backbone = "tiny"
pretrained = false
channels = 16
[method]
name = "manual"
taxonomy = "table.tsv"
[train]
steps = 1
"""


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A finished run, whose label space is a table of its own."""
    manyseg.Taxonomy.read(world.truth, manyseg.Taxonomy.disjoint(_spaces(world)).spaces).write(
        world.folder / "table.tsv"
    )
    (world.folder / "hub.toml").write_text(RECIPE)
    return train_recipe(world.folder / "hub.toml", out=tmp_path_factory.mktemp("hub") / "run")


def _spaces(world):
    from manyseg.data.card import read_card

    return [read_card(world.cards[name]).space for name in ("fine", "coarse")]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with connected(monkeypatch, tmp_path) as stand_in:
        yield stand_in


def test_a_run_goes_to_the_hub_and_predicts_the_same_from_there(hub, run):
    url = push(run, "someone/streets", "apache-2.0")
    assert url.endswith("/someone/streets")
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    here, there = manyseg.load(run), manyseg.load("hf://someone/streets")
    for labels in ("fine", "coarse", "unified"):
        one, other = (model.predict(image, labels, scores=True) for model in (here, there))
        np.testing.assert_array_equal(one.scores, other.scores)
        assert one.names == other.names
    assert hub.private == set()


def test_nothing_of_the_data_goes_along(hub, run, world):
    push(run, "someone/streets", "apache-2.0", private=True)
    files = hub.repositories["someone/streets"]
    assert sorted(files) == [
        "README.md", "best/model.safetensors", "best/state.json", "files/method-taxonomy.tsv", "manifest.json",
        "recipe.toml", "spaces.json", "taxonomy.tsv",
    ]  # fmt: skip
    text = b"\n".join(content for name, content in files.items() if not name.endswith(".safetensors"))
    for place in (world.folder, run, run.parent):
        assert str(place).encode() not in text
        assert b".." not in files["recipe.toml"]
    assert hub.private == {"someone/streets"}


def test_the_model_card_says_what_the_run_is(hub, run):
    push(run, "someone/streets", "cc-by-4.0")
    card = hub.repositories["someone/streets"]["README.md"].decode()
    scores = json.loads((run / "scores.json").read_text())["datasets"]["fine"]
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: manyseg\n")
    assert "# streets" in card
    assert f"| fine | seen | {100 * scores['miou']:.1f} | {100 * scores['pixel_accuracy']:.1f} | - |" in card
    assert "- **coarse** (6): sky, scenery, road, sidewalk, vehicle, person" in card
    assert 'manyseg.load("hf://someone/streets")' in card
    assert "- steps: 1" in card


def test_a_run_is_pushed_again_as_a_new_commit(hub, run):
    push(run, "someone/streets", "apache-2.0")
    push(run, "someone/streets", "mit")
    assert b"license: mit" in hub.repositories["someone/streets"]["README.md"]


def test_a_run_from_the_hub_is_named_wherever_a_run_is(hub, run, tmp_path):
    push(run, "someone/streets", "apache-2.0")
    found = manyseg.runs.run.Run.open("hf://someone/streets")
    assert [s.name for s in found.spaces] == ["fine", "coarse"]
    # As the command line hands it on: a path drops the second slash.
    assert manyseg.runs.run.Run.open(__import__("pathlib").Path("hf://someone/streets")).folder == found.folder


@pytest.mark.parametrize(
    ("name", "licence", "message"),
    [
        ("streets", "mit", "'streets' is no name on the hub; give user/name"),
        ("a/b/c", "mit", "'a/b/c' is no name on the hub"),
        ("someone/streets", "all rights: mine", "is no identifier of a licence"),
        ("someone/streets", "", "is no identifier of a licence"),
    ],
)
def test_what_the_hub_would_refuse_is_refused_before(hub, run, name, licence, message):
    with pytest.raises(UserError, match=message):
        push(run, name, licence)
    assert hub.requests == []


def test_a_folder_that_is_no_run_is_not_pushed(hub, tmp_path):
    with pytest.raises(UserError, match="no run is there"):
        push(tmp_path, "someone/streets", "mit")
    assert hub.requests == []


def test_who_is_not_logged_in_is_told_how(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"log in|logged in"):
        push(run, "someone/streets", "mit")


PUSHED = [
    ("streets", "mit", "give user/name or organisation/name", "someone/streets", "mit"),
    (
        "someone/streets",
        "all rights: mine",
        "give one such as apache-2.0, cc-by-4.0 or other",
        "someone/streets",
        "other",
    ),
]


@pytest.mark.parametrize(("name", "licence", "said", "right", "other"), PUSHED)
def test_a_run_is_pushed_as_advised(hub, run, name, licence, said, right, other):
    follow(lambda: push(run, name, licence), said, lambda: push(run, right, other))
    assert "someone/streets" in hub.repositories


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "GatedRepo", "its owner gives access one by one; ask for it on its page, and log in"),
        (403, "", r"the hub refuses this \(403\); log in with a token that has the right to it"),
        (404, "RepoNotFound", "there is no such repository, or it is private; check the name, or log in"),
        (418, "", r"the hub answers 418; try again later"),
    ],
)
def test_a_run_that_the_hub_refuses_is_had_as_advised(hub, run, status, code, said):
    push(run, "someone/streets", "mit")
    hub.refused["someone/streets"] = status, code
    load = lambda: manyseg.load("hf://someone/streets")  # noqa: E731
    follow(load, said, lambda: [hub.refused.clear(), load()])


def test_who_is_not_logged_in_logs_in_as_advised(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")

    def logged_in():
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        return push(run, "someone/streets", "mit")

    follow(
        lambda: push(run, "someone/streets", "mit"),
        "log in with a token that has the right|run `hf auth login`, or set HF_TOKEN",
        logged_in,
    )


def test_a_run_is_named_as_advised(hub, run):
    push(run, "someone/streets", "mit")
    hub.repositories["someone/else"] = {"README.md": b"# another thing"}
    for wrong, said in (
        ("hf://nothing", "give hf://user/name"),
        ("hf://someone/nothing", "check the name"),
        ("hf://someone/else", r"no run of manyseg is there \(no recipe.toml\); check the name"),
    ):
        follow(lambda wrong=wrong: manyseg.load(wrong), said, lambda: manyseg.load("hf://someone/streets"))


def test_code_that_was_read_is_loaded_by_its_path_as_advised(hub, run, tmp_path):
    packed = pack(run, tmp_path / "packed", "someone/own", "mit")
    recipe = (packed / "recipe.toml").read_text().replace('"manual"', '"manyseg.methods.baselines:Manual"')
    (packed / "recipe.toml").write_text(recipe)
    (packed / "manifest.json").unlink()
    hub.repositories["someone/own"] = {
        p.relative_to(packed).as_posix(): p.read_bytes() for p in packed.rglob("*.*") if p.is_file()
    }
    follow(
        lambda: manyseg.load("hf://someone/own"),
        "read that code, then download the folder and load it by its path",
        lambda: manyseg.load(packed),
    )


def test_a_hub_is_reached_again_as_advised(hub, run, monkeypatch, tmp_path):
    push(run, "someone/streets", "mit")
    address = constants.ENDPOINT

    def connect(to, ask):
        monkeypatch.setattr(constants, "ENDPOINT", to)
        return ask()

    for ask in (lambda: download("hf://someone/streets"), lambda: push(run, "someone/streets", "mit")):
        follow(
            lambda ask=ask: connect("http://127.0.0.1:9", ask),
            "hf://someone/streets: the hub cannot be reached .*; check the network",
            lambda ask=ask: connect(address, ask),
        )


def test_what_is_not_on_the_hub_is_one_line(hub):
    with pytest.raises(UserError, match="hf://someone/nothing: there is no such repository, or it is private"):
        manyseg.load("hf://someone/nothing")
    with pytest.raises(UserError, match="is no place on the hub; give hf://user/name"):
        manyseg.load("hf://nothing")
    hub.repositories["someone/else"] = {"README.md": b"# another thing"}
    with pytest.raises(UserError, match="no run of manyseg is there"):
        download("hf://someone/else")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="hf://someone/streets: the hub cannot be reached"):
        download("hf://someone/streets")


@pytest.mark.parametrize("where", ["method", "stage"])
def test_code_of_another_package_is_not_loaded_from_the_hub(hub, run, tmp_path, where):
    packed = pack(run, tmp_path / "packed", "someone/trap", "mit")
    recipe = (packed / "recipe.toml").read_text()
    if where == "method":
        recipe = recipe.replace('name = "manual"', 'name = "antigravity:Class"')
    else:
        recipe += '\n[[stage]]\nname = "train"\nsteps = 1\nmethod = { name = "antigravity:Class" }\n'
    hub.repositories["someone/trap"] = {"recipe.toml": recipe.encode()}
    with pytest.raises(UserError, match=r"its method is code of another package \(antigravity:Class\)"):
        manyseg.load("hf://someone/trap")


def test_damage_on_the_way_is_found(hub, run):
    push(run, "someone/streets", "mit")
    files = hub.repositories["someone/streets"]
    files["spaces.json"] = files["spaces.json"].replace(b"sidewalk", b"sidewolk")
    with pytest.raises(UserError, match="is not as the run wrote it"):
        manyseg.load("hf://someone/streets")

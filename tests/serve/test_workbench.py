"""The workbench of a run's labels: the page, and what is kept of it beside the run."""

import json
import shutil

import pytest
from browser import Tab, needs_chromium
from conftest import served

from manyseg.labels import Taxonomy
from manyseg.relate import Constraints
from manyseg.serve.served import Served
from manyseg.serve.server import open_runs


@pytest.fixture
def own(folders, tmp_path):
    """A copy of a run, to write beside."""
    shutil.copytree(folders[0], tmp_path / "run")
    return open_runs([tmp_path / "run"])


def send(site, table, constraints=""):
    body = json.dumps({"table": table, "constraints": constraints})
    return site.json("/workbench/0", body, content_type="application/json")


def test_a_corrected_table_and_decisions_are_kept_beside_the_run_and_shown_again(own, tmp_path):
    spaces, taxonomy = own[0].run.spaces, own[0].model.taxonomy
    table = taxonomy.to_tsv().replace("sky\tsky\tsky\n", "sky\tsky\t\nheaven\t\tsky\n")
    said = 'cannot_link = [\n    "fine:sky = coarse:sky",\n]\n'
    with served(own) as site:
        page = site.ask("/workbench/0")[2].decode()
        assert '"save":"/workbench/0"' in page
        assert "heaven" not in page
        status, found = send(site, table, said)
        assert (status, found) == (200, {"files": ["run.taxonomy.tsv", "run.constraints.toml"]})
        status, headers, page = site.ask("/workbench/0")
        assert "heaven" in page.decode()
        assert "connect-src 'self'" in headers["content-security-policy"]
    assert len(Taxonomy.read(tmp_path / "run.taxonomy.tsv", spaces).unified) == len(taxonomy.unified) + 1
    kept = Constraints.read(tmp_path / "run.constraints.toml", spaces)
    assert kept.cannot_link == ((("fine", "sky"), ("coarse", "sky")),)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run.constraints.toml", "run.taxonomy.tsv"]


@pytest.mark.parametrize(
    ("table", "constraints", "said"),
    [
        ("nonsense", "", "run.taxonomy.tsv: the first row must start with 'unified'"),
        (None, "must_link = 3", "run.constraints.toml: 'must_link' is not a list"),
        (None, "x =", "run.constraints.toml"),
        (None, 'must_link = ["fine:sky = fine:road"]', "both of 'fine'"),
    ],
)
def test_what_cannot_be_read_again_is_refused_and_the_old_files_stay(own, tmp_path, table, constraints, said):
    with served(own) as site:
        good = own[0].model.taxonomy.to_tsv()
        assert send(site, good)[0] == 200
        before = (tmp_path / "run.taxonomy.tsv").read_bytes(), (tmp_path / "run.constraints.toml").read_bytes()
        status, answer = send(site, good if table is None else table, constraints)
        assert (status, said in answer["detail"]) == (422, True), answer
        assert "/" not in answer["detail"].replace("and/or", "")
        assert site.json("/workbench/0", b"[1]")[0] == 422
    assert before == ((tmp_path / "run.taxonomy.tsv").read_bytes(), (tmp_path / "run.constraints.toml").read_bytes())


def test_nothing_is_written_beside_a_run_of_the_hub(own):
    far = Served("user/name", own[0].run, own[0].model, None)
    with served([far]) as site:
        assert '"save":""' in site.ask("/workbench/0")[2].decode()
        status, answer = send(site, own[0].model.taxonomy.to_tsv())
        assert (status, "download the files" in answer["detail"]) == (409, True)


def test_where_datasets_share_no_node_the_proposal_is_shown(runs):
    with served(runs[1:]) as site:
        page = site.ask("/workbench/0")[2].decode()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert any(len(members) > 1 for _, members in data["nodes"])


@needs_chromium
def test_a_click_saves_it_in_place(own, tmp_path):
    with served(own) as site, Tab(tmp_path) as tab:
        tab.open(f"{site.address}/workbench/0")
        tab.run("document.querySelector('#save').click()")
        tab.until("document.querySelector('#said').textContent.startsWith('Saved beside the run')")
        assert tab.errors == []
    kept = Taxonomy.read(tmp_path / "run.taxonomy.tsv", own[0].run.spaces)
    assert kept.relations.keys() == own[0].model.taxonomy.relations.keys()
    assert len(kept.unified) == len(own[0].model.taxonomy.unified)

import pytest

from manyseg.demo import run_demo
from manyseg.errors import UserError
from manyseg.methods import METHODS


def test_the_demo_trains_every_method_and_leaves_pictures_and_a_report(tmp_path, capsys, monkeypatch):
    out = tmp_path / "demo"
    report = run_demo(out, steps=4, images=6)
    shown = capsys.readouterr().out
    assert report.read_text().rstrip().endswith("</html>")
    for name in METHODS.keys() - {"unified_nodes"}:
        assert (out / "runs" / name / "report.html").exists()
        assert name in shown
    assert "The planted label space, recovered" in shown
    assert "\nOver fine, coarse and partial, " in shown
    assert ", one model a dataset " in shown
    assert "trained alone" in (out / "runs" / "union" / "report.html").read_text()
    assert (out / "labels.html").exists()
    ends = [line for line in shown.splitlines() if line][-3:]
    assert [line.split()[:2] for line in ends] == [["manyseg", "init"], ["manyseg", "labels"], ["manyseg", "train"]]
    assert "labels.tsv" in (out / "htss.toml").read_text()
    assert len(list((out / "predictions" / "overlays").rglob("*.*"))) == 8
    # A demo's own folder is replaced.
    monkeypatch.setattr("manyseg.demo.METHODS", {"multihead": METHODS["multihead"]})
    run_demo(out, steps=1, images=3)
    alone = {f"{name}-alone" for name in ("fine", "coarse", "partial")}
    assert {p.name for p in (out / "runs").iterdir()} == {"multihead"} | alone


def test_the_demo_never_replaces_a_folder_that_it_did_not_write(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.txt").exists()

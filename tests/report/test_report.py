import io
import json
import math
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
from advice import follow
from browser import browse, needs_chromium
from PIL import Image
from rich.console import Console

from manyseg import templates
from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace, Taxonomy
from manyseg.report.change import points
from manyseg.report.charts import Series, _spread, _thin, _ticks, heat_map, line_chart
from manyseg.report.compare import compare
from manyseg.report.environment import environment
from manyseg.report.page import _largest, write_report
from manyseg.report.record import read_record
from manyseg.report.samples import PARTS, Seen, Shown, read_samples, write_samples

EVIL = "<script>alert('x')</script>"
STREET = LabelSpace("street", (LabelClass("road", (128, 64, 128)), LabelClass("sky", (0, 0, 255)), LabelClass(EVIL)))
KNOWN = {"concepts": 9, "measured": 3, "area": 1.25, "curve": [[0.05, 3], [0.5, 1], [0.95, 0]]}


def step(at: int, stage: str = "train", loss: float = 1.0) -> dict[str, Any]:
    return {"step": at, "stage": stage, "loss": loss, "losses": {"street/pixel": loss}, "lr": 0.1, "seconds": at * 2.0}


def evaluation(at: int, stage: str = "train", miou: float = 0.5) -> dict[str, Any]:
    return {"step": at, "stage": stage, "eval": {"street": {"miou": miou, "pixel_accuracy": 0.9}}, "mean_miou": miou}


def scores(miou: float = 0.5, names: tuple[str, ...] = STREET.names, **entry: Any) -> dict[str, Any]:
    classes: dict[str, Any] = {n: {"iou": miou, "pixels": 10 * i} for i, n in enumerate(names)}
    classes[names[-1]] = {"iou": None, "pixels": 0}
    street = {"protocol": "seen", "miou": miou, "pixel_accuracy": 0.9, "pq": None, "classes": classes} | entry
    return {"unified_nodes": 3, "mean_miou_seen": miou, "datasets": {"street": street}}


def run(folder: Path, lines: list[dict[str, Any]], result: dict[str, Any] | None = None, **recipe: Any) -> Path:
    folder.mkdir(parents=True)
    options = {"name": "multihead", "seed": 0, "lr": 0.1} | recipe
    (folder / "recipe.toml").write_text(
        f"seed = {options['seed']}\n[model]\nbackbone = 'tiny'\n[method]\nname = '{options['name']}'\n"
        f"[train]\nlr = {options['lr']}\n"
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if result is not None:
        (folder / "scores.json").write_text(json.dumps(result))
    return folder


# The record of a run.


def test_steps_that_a_resumed_run_repeats_count_once_and_the_later_wins(tmp_path: Path) -> None:
    folder = run(tmp_path / "r", [step(0), step(1, loss=9.0), step(2), step(1, loss=3.0), step(2), step(3)])
    assert [(s["at"], s["loss"]) for s in read_record(folder).steps] == [(1, 1.0), (2, 3.0), (3, 1.0), (4, 1.0)]


@pytest.mark.parametrize("start", [0, 10])
def test_stages_follow_each_other_whether_or_not_they_count_from_0(tmp_path: Path, start: int) -> None:
    lines = [step(0, "heads"), step(9, "heads"), evaluation(10, "heads")]
    lines += [step(start, "graph"), step(start + 5, "graph"), evaluation(start + 6, "graph")]
    record = read_record(run(tmp_path / "r", lines))
    assert [s["at"] for s in record.steps] == [1, 10, 11, 16]
    assert [s["at"] for s in record.evals] == [10, 16]
    assert record.stages == [("heads", 1, 10), ("graph", 11, 16)]


def test_a_line_cut_off_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = run(tmp_path / "r", [step(0), step(1)])
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "stage": "tr')
    record = read_record(folder)
    assert len(record.steps) == 2
    assert "metrics.jsonl: 1 line cut off or broken, left out" in record.notes


def test_the_mean_is_the_final_one_else_the_last_while_training(tmp_path: Path) -> None:
    lines = [step(0), evaluation(10, miou=0.25), evaluation(20, miou=0.5)]
    assert read_record(run(tmp_path / "a", lines)).mean == (0.5, "while training, after 20 steps")
    assert read_record(run(tmp_path / "b", lines, scores(0.75))).mean == (0.75, "final evaluation")
    assert read_record(run(tmp_path / "c", [step(0)])).mean == (None, "no evaluation yet")


@pytest.mark.parametrize(
    ("other", "said"),
    [(["Street"], "2, of which 0 are shared"), (["road"], "1, of which 1 is shared"), (None, "<dd>1</dd>")],
)
def test_the_header_says_how_many_nodes_datasets_share(tmp_path: Path, other: list[str] | None, said: str) -> None:
    folder = run(tmp_path / "r", [step(0)])
    spaces = [LabelSpace.of("a", ["road"])] + ([LabelSpace.of("b", other)] if other else [])
    Taxonomy.by_name(spaces).write(folder / "taxonomy.tsv")
    assert said in write_report(folder).read_text()


def test_broken_files_become_notes(tmp_path: Path) -> None:
    folder = run(tmp_path / "r", [step(0)])
    (folder / "recipe.toml").write_text("seed = ")
    (folder / "scores.json").write_text('{"datasets": {')
    (folder / "confusion.npz").write_bytes(b"PK\x03\x04 cut off")
    (folder / "environment.json").write_text("[]")
    notes = " / ".join(read_record(folder).notes)
    assert "recipe.toml is not TOML" in notes
    assert "scores.json is not JSON" in notes
    assert "confusion.npz cannot be read" in notes
    assert "taxonomy.tsv is not there" in notes
    write_report(folder)


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e308", "-1e308", "1e999"])
def test_a_number_that_cannot_be_drawn_is_a_note_or_a_gap_wherever_it_stands(tmp_path: Path, number: str) -> None:
    result = scores() | {"axes": {"knowledgeability": KNOWN}}
    texts = {
        "metrics.jsonl": json.dumps(step(3) | evaluation(4) | {"mean_miou": 0.5}),
        "scores.json": json.dumps(result),
    }
    places = [(name, m) for name, text in texts.items() for m in re.finditer(r"-?\d+(\.\d+)?(?=[,}\]])", text)]
    assert len(places) > 25
    for i, (name, place) in enumerate(places):
        folder = run(tmp_path / str(i), [step(0), step(1), evaluation(2)], result)
        text = texts[name][: place.start()] + number + texts[name][place.end() :]
        with open(folder / name, "a" if name == "metrics.jsonl" else "w") as file:
            file.write(text)
        write_report(folder)


def test_a_damaged_legend_is_left_out(tmp_path: Path) -> None:
    write_samples(tmp_path, STREET, STREET, [Shown(np.zeros((3, 2, 2), np.uint8), *[np.zeros((2, 2), int)] * 3)])
    legend = tmp_path / "samples/street-0.json"
    for text in ("[]", "{", '{"truth": 1}', '{"truth": [{"name": "road", "color": "red;", "share": 0.5}]}'):
        legend.write_text(text)
        assert read_samples(tmp_path)[0].legend == {part: [] for part in PARTS}


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "nowhere")


# Charts.


def test_ticks_are_round_and_cover_the_values() -> None:
    assert _ticks(0, 2.15, beyond=True) == [0, 1, 2, 3]
    assert _ticks(0, 0.6, beyond=True) == [0, 0.2, 0.4, 0.6]
    assert _ticks(0, 1995) == [0, 500, 1000, 1500]
    assert _ticks(3, 3.0004) == [3.0, 3.0001, 3.0002, 3.0003, 3.0004]


def test_a_long_series_is_averaged_in_equal_steps_and_keeps_its_end() -> None:
    thin = _thin([(float(i), float(i % 2)) for i in range(480)])
    assert len(thin) == 240
    assert thin[0] == (1.0, 0.5)
    assert thin[-1] == (479.0, 0.5)
    assert _thin([(0.0, math.nan)] * 300 + [(1.0, 2.0)])[-1] == (1.0, 2.0)


def test_labels_are_moved_apart_and_stay_above_the_bottom() -> None:
    assert _spread([240.0, 100.0, 101.0, math.nan], 244)[:3] == [240.0, 100.0, 114.0]
    assert _spread([243.0, 244.0, 244.0], 244) == [216.0, 230.0, 244.0]


def test_a_value_that_is_not_finite_is_a_gap_in_the_line() -> None:
    chart = str(
        line_chart("Loss", [Series("a", [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0), (4, math.inf), (5, 1.0)])])
    )
    (path,) = [part.split('"')[0] for part in chart.split('<path d="')[1:]]
    assert path.count("M") == 3
    assert path.count("L") == 1
    assert "null" in chart
    assert line_chart("Loss", [Series("a", [(0, math.nan)])]) == ""


def test_a_heat_map_writes_percentages_only_where_they_fit() -> None:
    shares = np.array([[0.9, 0.1], [0.0, 1.0]])
    assert [f">{n}</text>" in heat_map(["a", "b"], shares) for n in ("90", "10", "100", "0")] == [
        True,
        True,
        True,
        False,
    ]
    assert 'class="share' not in heat_map([str(i) for i in range(150)], np.eye(150))
    assert len(heat_map([f"class {i}" for i in range(150)], np.eye(150))) < 100_000


# The page.


def test_the_largest_confusions_are_listed_by_pixels_with_their_share_of_the_class() -> None:
    counts = np.array([[80, 20, 0], [5, 5, 0], [0, 0, 7]])
    assert _largest(["a", "b", "c"], counts) == [
        {"truth": "a", "predicted": "b", "pixels": 20, "share": 0.2},
        {"truth": "b", "predicted": "a", "pixels": 5, "share": 0.5},
    ]
    assert counts.trace() == 92


def full(folder: Path, classes: int = 3) -> Path:
    """Write a run with every file, of one dataset."""
    names = STREET.names if classes == 3 else tuple(f"class {i}" for i in range(classes))
    space = LabelSpace.of("street", names) if classes != 3 else STREET
    lines = [step(i, loss=2 - i / 100) for i in range(100)] + [evaluation(i, miou=i / 200) for i in (50, 100)]
    run(folder, lines, scores(0.5, names))
    counts = np.diag(np.arange(classes) * 10)
    counts[1, 0] = 3
    np.savez(folder / "confusion.npz", street=counts)
    Taxonomy.disjoint([space]).write(folder / "taxonomy.tsv")
    (folder / "environment.json").write_text(json.dumps(environment()))
    mask = torch.tensor([[0, 1], [-1, 2]]).repeat_interleave(16, 0).repeat_interleave(16, 1)
    image = torch.full((3, 32, 32), 90, dtype=torch.uint8)
    write_samples(folder, space, space, [Shown(image, mask, mask.clamp(min=0), mask.clamp(min=0))])
    return folder


def test_a_report_is_one_file_and_shows_names_as_text(tmp_path: Path) -> None:
    page = write_report(full(tmp_path / "r"))
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "r" / "report.html"
    assert EVIL not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)" in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("data:image/jpeg") == 4
    assert not list(page.parent.glob(".report*"))


def test_a_report_says_what_the_header_promises(tmp_path: Path) -> None:
    text = write_report(full(tmp_path / "r")).read_text(encoding="utf-8")
    for fact in (
        "multihead",
        "tiny",
        "<dd>100</dd>",
        "<b>50.0</b>",
        "<dd>3.3 min</dd>",
        torch.__version__.split("+")[0],
    ):
        assert fact in text, fact
    assert "left out of the mean: &lt;script&gt;alert(&#39;x&#39;)" in text
    assert "<td>sky</td><td>road</td>" in text


def test_a_report_begins_with_the_classes_of_least_iou_and_what_they_are_called_instead(tmp_path: Path) -> None:
    page = write_report(full(tmp_path / "r")).read_text(encoding="utf-8")
    weakest = page[page.index("The weakest classes") : page.index("h-curves")]
    # Of three classes one is absent and one has no pixel; the third is called the first on 3 of its 13 pixels.
    assert weakest.count("<tr><td>") == 1
    assert "<td>sky</td>" in weakest
    assert 'road <span class="soft">23 %</span>' in weakest


def test_a_run_of_several_datasets_is_set_against_the_runs_of_each_alone_beside_it(tmp_path: Path) -> None:
    both = scores(0.5)
    both["datasets"]["park"] = both["datasets"]["street"]
    folder = run(tmp_path / "joint", [step(0)], both)
    for name, miou in (("alone-0", 0.3), ("alone-1", 0.4)):
        run(tmp_path / name, [step(0)], scores(miou))
    assert read_record(folder).alone == {"street": {"alone-0": 0.3, "alone-1": 0.4}}
    page = write_report(folder).read_text(encoding="utf-8")
    assert '<span title="alone-0, alone-1">35.0 <span class="soft">(+15.0)</span></span>' in page
    assert '<td class="number">35.0</td><td class="number">50.0</td><td class="number">+15.0</td><td>-</td>' in page
    assert "<td>road +15.0, sky +15.0</td>" in page.replace("sky +15.0, road +15.0", "road +15.0, sky +15.0")
    assert "trained alone" not in write_report(tmp_path / "alone-0").read_text(encoding="utf-8")


def test_a_run_without_evaluation_says_so(tmp_path: Path) -> None:
    text = write_report(run(tmp_path / "r", [step(0)])).read_text(encoding="utf-8")
    assert "no evaluation yet" in text
    assert "No sample pictures" in text
    assert "No environment.json" in text


def test_a_run_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    assert "No training steps are logged" in write_report(run(tmp_path / "r", [])).read_text(encoding="utf-8")


def test_protocols_have_tables_and_means_of_their_own(tmp_path: Path) -> None:
    result = scores(0.5)
    base = result["datasets"]["street"]
    result["datasets"] |= {
        "park": base | {"miou": 0.25},
        "lane": base | {"protocol": "labels", "miou": 0.9},
        "alley": base | {"protocol": "labels", "miou": 0.8},
    }
    text = write_report(run(tmp_path / "r", [], result)).read_text(encoding="utf-8")
    means = [part.split("</td>")[1] for part in text.split('<tr class="mean">')[1:]]
    assert means == ['<td class="number">37.5', '<td class="number">85.0']
    assert "Unseen, map fitted on labels of another split" in text


def test_confusions_of_other_classes_than_the_scores_are_named_not_drawn(tmp_path: Path) -> None:
    folder = full(tmp_path / "r")
    np.savez(folder / "confusion.npz", street=np.eye(2, dtype=int))
    assert "confusion.npz has 2 classes, scores.json 3" in write_report(folder).read_text(encoding="utf-8")


def test_150_classes_stay_below_a_megabyte(tmp_path: Path) -> None:
    assert write_report(full(tmp_path / "r", classes=150)).stat().st_size < 1_000_000


@needs_chromium
def test_a_browser_reads_charts_and_sorts_tables_without_an_error(tmp_path: Path) -> None:
    result = browse(
        write_report(full(tmp_path / "r")),
        """
        const chart = document.querySelector(".chart svg"), box = chart.getBoundingClientRect();
        const at = (x, y) => ({bubbles: true, clientX: x, clientY: y});
        chart.dispatchEvent(new PointerEvent("pointermove", at(box.left + box.width * 0.805, box.top + 50)));
        found.readout = document.querySelector(".readout").textContent;
        const heat = document.querySelector(".heat svg"), edge = heat.getBoundingClientRect();
        const cell = +heat.dataset.cell, margin = +heat.dataset.margin;
        const place = at(edge.left + margin + cell / 2, edge.top + margin + 1.5 * cell);
        heat.dispatchEvent(new PointerEvent("pointermove", place));
        found.heat = document.querySelector(".heat-readout").textContent.replace(/^[0-9.]+/, "");
        const head = document.querySelectorAll("#set-street th[aria-sort]")[4];
        const rows = () => [...document.querySelector("#set-street .scroll").querySelectorAll("tbody tr")];
        const pixels = () => rows().map((row) => row.cells[5].textContent);
        head.click(); found.down = pixels();
        head.click(); found.up = pixels();
        found.scripts = [...document.scripts].filter((s) => !s.type).length;
        """,
    )
    assert result["errors"] == []
    assert result["readout"].splitlines()[0] == "step 100"
    assert "1.010  street" in result["readout"]
    assert result["heat"] == " % of sky is called road"
    assert result["down"] == ["10", "0"]
    assert result["up"] == ["0", "10"]
    assert result["scripts"] == 3


# Samples.


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGBA"))


def test_samples_are_written_in_the_spaces_colours_and_transparent_where_ignored(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [-1, 0]])
    unified = LabelSpace("unified", (LabelClass("way", (1, 2, 3)), LabelClass("air", (4, 5, 6))))
    image = np.zeros((3, 2, 2), np.uint8)
    write_samples(tmp_path, STREET, unified, [Shown(image, mask, mask, mask)] * 2)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir() if "-1" in p.name) == [
        "street-1-image.jpg", "street-1-prediction.png", "street-1-truth.png", "street-1-unified.png", "street-1.json",
    ]  # fmt: skip
    truth = pixels(tmp_path / "samples" / "street-0-truth.png")
    assert truth[0, 0].tolist() == [128, 64, 128, 255]
    assert truth[0, 1].tolist() == [0, 0, 255, 255]
    assert truth[1, 0, 3] == 0
    nodes = pixels(tmp_path / "samples" / "street-0-unified.png")
    assert nodes[0, 1].tolist() == [4, 5, 6, 255]
    (first, _) = read_samples(tmp_path)
    assert first.legend["truth"] == [
        Seen("road", "#804080", 0.5),
        Seen("sky", "#0000ff", 0.25),
    ]


def test_masks_of_300_classes_keep_their_colours(tmp_path: Path) -> None:
    many = LabelSpace.of("many", [str(i) for i in range(300)])
    mask = np.arange(300).reshape(1, 300)
    write_samples(tmp_path, many, many, [Shown(np.zeros((3, 1, 300), np.uint8), mask, mask, mask)])
    picture = pixels(tmp_path / "samples" / "many-0-truth.png")
    assert (picture[0, :, :3] == many.colors).all()


def test_wide_images_are_made_smaller_in_proportion(tmp_path: Path) -> None:
    mask = np.zeros((100, 960), int)
    write_samples(tmp_path, STREET, STREET, [Shown(np.zeros((3, 100, 960), np.uint8), mask, mask, mask)])
    assert {pixels(p).shape[:2] for p in (tmp_path / "samples").glob("*-0-*")} == {(50, 480)}


def test_a_mask_of_another_size_than_its_image_is_an_error(tmp_path: Path) -> None:
    mask, wrong = np.zeros((2, 2), int), np.zeros((2, 3), int)
    with pytest.raises(UserError, match=r"sample 0 of 'street': prediction is \[2, 3\], its image \[2, 2\]"):
        write_samples(tmp_path, STREET, STREET, [Shown(np.zeros((3, 2, 2), np.uint8), mask, wrong, mask)])


def test_ready_strips_and_names_with_numbers_are_found(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for name in ("set-2-10.png", "set-2-9-image.png", "notes.txt"):
        Image.new("RGB", (2, 2)).save(tmp_path / "samples" / name, "PNG")
    found = [(p.dataset, p.number, list(p.parts)) for p in read_samples(tmp_path)]
    assert found == [("set-2", 9, ["image"]), ("set-2", 10, ["strip"])]


# Comparison.


def runs(tmp_path: Path) -> list[Path]:
    out = [run(tmp_path / f"heads-{s}", [], scores(m), seed=s) for s, m in enumerate((0.40, 0.44, 0.48))]
    return [*out, run(tmp_path / "union-0", [], scores(0.5), name="union", lr=0.2)]


def test_seeds_are_one_group_with_mean_and_sample_deviation(tmp_path: Path) -> None:
    first, second = compare(runs(tmp_path)).groups
    assert first.scores["street"] == pytest.approx((0.44, 0.04, 3))
    assert str(first.scores["mean (shared)"]) == "44.0 ± 4.0"
    assert second.scores["street"] == (0.5, None, 1)
    assert str(second.scores["street"]) == "50.0"
    assert (first.seeds, second.seeds) == (("0", "1", "2"), ("0",))


def test_only_the_keys_that_differ_are_listed(tmp_path: Path) -> None:
    assert compare(runs(tmp_path)).differences == {
        "method.name": ('"multihead"', '"union"'),
        "train.lr": ("0.1", "0.2"),
    }


def test_markdown_marks_the_best_of_each_column(tmp_path: Path) -> None:
    lines = compare(runs(tmp_path)).to_markdown().splitlines()
    assert lines[0] == "| run | n | mean (shared) | street |"
    assert lines[2:4] == [
        "| multihead | 3 | 44.0 ± 4.0 | 44.0 ± 4.0 |",
        "| union | 1 | **50.0** | **50.0** |",
    ]


def test_scores_of_two_protocols_never_share_a_column(tmp_path: Path) -> None:
    a = run(tmp_path / "a", [], scores(0.5))
    b = run(tmp_path / "b", [], scores(0.7, protocol="names") | {"mean_miou_seen": None}, name="union")
    comparison = compare([b, a])
    assert comparison.columns == ("street (names)", "street")
    assert [comparison.cells(g) for g in comparison.groups] == [["70.0", "—"], ["—", "50.0"]]
    assert comparison.means_of == "No dataset was trained on by all of them, so there is no mean."
    assert comparison.result == ""


def test_runs_without_scores_are_counted_not_averaged(tmp_path: Path) -> None:
    folders = [run(tmp_path / "a-0", [], scores(0.5), seed=0), run(tmp_path / "a-1", [step(0)], seed=1)]
    (group,) = compare(folders).groups
    assert group.count == "1 of 2"
    assert group.scores["street"] == (0.5, None, 1)


def test_groups_of_one_method_are_named_by_their_folders(tmp_path: Path) -> None:
    folders = [run(tmp_path / f"slow-{s}", [], seed=s, lr=0.1) for s in range(2)]
    folders += [run(tmp_path / "fast_seed3", [], seed=3, lr=0.2), run(tmp_path / "other", [], name="union")]
    assert [g.name for g in compare(folders).groups] == ["slow", "fast", "union"]


def test_comparing_nothing_or_one_run_twice_is_an_error(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", [])
    with pytest.raises(UserError, match="no run to compare"):
        compare([])
    with pytest.raises(UserError, match="given 2 times"):
        compare([folder, tmp_path / "b" / ".." / "a"])


def test_the_terminal_table_shows_names_literally(tmp_path: Path) -> None:
    folders = [run(tmp_path / "[bold]a", [], scores(0.5)), run(tmp_path / "b", [], scores(0.6), lr=0.3)]
    console = Console(width=100, file=io.StringIO())
    with console.capture() as capture:
        console.print(compare(folders).to_table())
    text = capture.get()
    assert "[bold]a" in text
    assert "60.0" in text
    assert "train.lr" in text


def test_the_page_draws_the_concepts_that_are_known_where_the_scores_say(tmp_path: Path) -> None:
    result = scores() | {"axes": {"performance": 0.5, "generalisation": {}, "knowledgeability": KNOWN}}
    page = write_report(run(tmp_path / "r", [step(0)], result)).read_text()
    assert "1.2 of 9 concepts" in page
    assert "Concepts that reach an IoU" in page
    assert "IoU, %</text>" in page
    assert "Knowledgeability" not in write_report(run(tmp_path / "s", [step(0)], scores())).read_text()


def test_the_comparison_page_lists_every_class_side_by_side(tmp_path: Path) -> None:
    text = compare(runs(tmp_path)).to_html()
    assert EVIL not in text
    assert (
        '<td>sky</td><td class="number">44.0 ± 4.0</td><td class="number">50.0 <span class="soft">(+6.0)</span></td>'
        in text
    )
    assert "2 recipes, 4 runs" in text


def several(folder: Path, seed: int = 0, name: str = "union", steps: int = 9, **ious: tuple[float, ...]) -> Path:
    """Write a run of the datasets `ious`, each of classes a, b, ... with these IoUs."""
    datasets = {
        n: {"protocol": "seen", "miou": sum(v) / len(v),
            "classes": {c: {"iou": iou, "pixels": 5} for c, iou in zip("abcd", v, strict=False)}}
        for n, v in ious.items()
    }  # fmt: skip
    run(folder, [], {"datasets": datasets, "mean_miou_seen": 0.99}, name=name, seed=seed)
    sets = ", ".join(f'{{ card = "{n}.toml", root = "{n}" }}' for n in ious)
    with (folder / "recipe.toml").open("a") as file:
        file.write(f"steps = {steps}\n[data]\nsets = [ {sets} ]\n")
    return folder


def test_means_are_over_datasets_that_all_have_and_the_others_are_named(tmp_path: Path) -> None:
    a = several(tmp_path / "a", park=(0.2, 0.4), lane=(0.6,), name="multihead")
    b = several(tmp_path / "b", street=(0.9,), park=(0.5, 0.3), lane=(0.5,))
    found = compare([a, b])
    assert found.columns == ("mean (shared)", "park", "lane", "street")
    assert [found.cells(g)[0] for g in found.groups] == ["45.0", "45.0"]
    assert found.means_of == ("mean (shared): over park and lane; left out, as not all were trained on them: street.")
    text = found.to_markdown()
    assert "| park | 2 | 30.0 | 40.0 | +10.0 | b -10.0 | a +30.0 |" in text
    assert "| lane | 1 | 60.0 | 50.0 | -10.0 | a -10.0 | - |" in text
    assert "| street | 1" not in text


def test_a_model_for_each_dataset_is_one_baseline_by_seed(tmp_path: Path) -> None:
    alone = [
        several(tmp_path / f"{n}-{seed}", seed, "multihead", steps, **{n: (iou + seed / 10,)})
        for seed in range(2)
        for n, iou, steps in (("park", 0.2, 5), ("lane", 0.4, 9))
    ]
    joint = several(tmp_path / "joint", park=(0.5,), lane=(0.4,))
    found = compare([*alone, joint])
    first, second = found.groups
    assert (first.name, first.count, first.seeds) == ("one model a dataset", "4", ("0", "1"))
    # 0.3 in seed 0, 0.4 in seed 1.
    assert first.scores["mean (shared)"] == pytest.approx((0.35, 0.005**0.5, 2))
    assert second.scores["mean (shared)"].mean == pytest.approx(0.45)
    assert found.result == (
        "Over park and lane, union has a mean mIoU of 45.0, one model a dataset 35.0 ± 7.1: +10.0 points; 1 of 2 "
        "classes gain."
    )
    assert list(found.differences) == ["method.name", "train.steps"]
    # Of one dataset alone they are seeds of a recipe like any other.
    assert compare(alone[::2]).groups[0].name == "multihead"


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    assert [points(v) for v in (-0.0001, 0.0, 0.031, -0.2)] == ["+0.0", "+0.0", "+3.1", "-20.0"]


def test_a_lead_within_the_spread_is_called_so(tmp_path: Path) -> None:
    heads = [several(tmp_path / f"h{s}", s, "multihead", park=(m,)) for s, m in enumerate((0.3, 0.5))]
    found = compare([*heads, several(tmp_path / "u", park=(0.45,))])
    assert found.result.endswith(": +5.0 points, which is within the spread over seeds; 1 of 1 classes gain.")


# The environment.


def test_the_environment_names_versions_and_hardware_and_nobody() -> None:
    found = environment()
    assert found["torch"] == torch.__version__ or str(found["torch"]) in torch.__version__
    assert int(found["cores"]) >= 1
    assert found["torch threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(found)) == found
    assert not {"user", "host", "hostname", "node"} & found.keys()


def test_a_template_is_compiled_once(monkeypatch):
    calls, compile_ = [], jinja2.Environment.compile
    monkeypatch.setattr(jinja2.Environment, "compile", lambda *a, **k: calls.append(a) or compile_(*a, **k))
    templates._environment.cache_clear()
    for _ in range(3):
        templates._environment().get_template("report.html")
    assert len(calls) == 1


def test_a_recipe_that_is_nested_without_end_is_told(tmp_path):
    (tmp_path / "recipe.toml").write_text("a = " + "[" * 3000)
    assert any("recipe.toml is not TOML" in note for note in read_record(tmp_path).notes)


def test_masks_of_samples_have_the_images_size_as_advised(tmp_path):
    image, mask, wrong = np.zeros((3, 2, 2), np.uint8), np.zeros((2, 2), int), np.zeros((4, 4), int)
    write = lambda truth: write_samples(tmp_path, STREET, STREET, [Shown(image, truth, mask, mask)])  # noqa: E731
    follow(lambda: write(wrong), "give masks at the image's size", lambda: write(mask))

import re
from pathlib import Path

import numpy as np
import pytest
from browser import browse, needs_chromium
from hypothesis import given
from hypothesis import strategies as st

from manyseg.explorer.conflicts import conflicts
from manyseg.explorer.difference import difference
from manyseg.explorer.page import _flow, _nodes, _order, write_explorer
from manyseg.explorer.review import review
from manyseg.labels import ClassKey, LabelSpace, Taxonomy
from manyseg.relate import ClassPair, Constraints
from manyseg.relate.proposal import Kind

EVIL = "<script>alert('x')</script>"

STREET = LabelSpace.of("street", ["road", "person", "sky"])
PARK = LabelSpace.of("park", ["path", "Person", EVIL])
LANE = LabelSpace.of("lane", ["drivable", "crosswalk", "animal"])


def pair(a: ClassKey, b: ClassKey, kind: Kind = "equal", score: float = 0.9, **evidence: float | str) -> ClassPair:
    return ClassPair(a, b, kind, score, evidence or {"names": 1.0, "text": "close"})


def toy() -> Taxonomy:
    groups = [
        [("street", "road"), ("lane", "drivable")],
        [("street", "road"), ("park", "path"), ("lane", "crosswalk")],
        [("street", "person"), ("park", "Person")],
        [("street", "sky")],
        [("park", EVIL), ("lane", "animal")],
    ]
    return Taxonomy.from_groups([STREET, PARK, LANE], groups)


def large(datasets: int = 7, classes: int = 64) -> Taxonomy:
    """Seven datasets of 64 = 448 classes, of which neighbours share half of theirs by name."""
    step = classes // 2
    spaces = [LabelSpace.of(f"set{i}", [f"thing {j + i * step:03}" for j in range(classes)]) for i in range(datasets)]
    return Taxonomy.by_name(spaces, exact=True)


def found(kind: str, taxonomy: Taxonomy, *pairs: ClassPair) -> list[tuple[str, str]]:
    return [(c.a[1], c.b[1]) for c in conflicts(taxonomy, pairs) if c.kind == kind]


# Conflicts.


@pytest.mark.parametrize("kind", ["part of", "contains", "overlaps", "equal", "unrelated"])
def test_there_is_a_conflict_only_where_the_evidence_says_something_else(kind: Kind) -> None:
    groups = [[("a", "x"), ("b", "y")], [("b", "y"), ("a", "z")]]
    taxonomy = Taxonomy.from_groups([LabelSpace.of("a", ["x", "z"]), LabelSpace.of("b", ["y"])], groups)
    names = {"part of": "", "equal": "", "unrelated": "unsupported merge", "contains": "part of"}
    found = [c.kind for c in conflicts(taxonomy, [pair(("a", "x"), ("b", "y"), kind)])]
    assert found == [n for n in [names.get(kind, kind)] if n]


def test_what_the_taxonomy_says_without_any_evidence_is_no_conflict() -> None:
    assert conflicts(toy()) == []


def test_equal_names_without_a_common_node_are_a_conflict() -> None:
    disjoint = Taxonomy.disjoint([STREET, PARK])
    assert found("same name", disjoint) == [("person", "Person")]
    assert found("same name", toy()) == []


def test_two_classes_of_one_dataset_in_one_node_are_a_conflict() -> None:
    groups = [[("street", "road"), ("street", "sky")], [("street", "person")]]
    assert found("same dataset", Taxonomy.from_groups([STREET], groups)) == [("road", "sky")]


def test_evidence_may_speak_against_a_merge_or_for_one_that_was_not_made() -> None:
    against = pair(("park", "Person"), ("street", "person"), "unrelated", 0.1)
    apart = pair(("lane", "animal"), ("street", "sky"), "equal", 0.8)
    assert found("unsupported merge", toy(), against, apart) == [("person", "Person")]
    assert found("missing merge", toy(), against, apart) == [("sky", "animal")]


@pytest.mark.parametrize("turned", [False, True])
def test_part_of_reads_from_the_part_to_the_whole_whichever_way_it_was_given(turned: bool) -> None:
    part, whole = ("lane", "animal"), ("street", "sky")
    relation = pair(whole, part, "contains", 0.7) if turned else pair(part, whole, "part of", 0.7)
    (conflict,) = [c for c in conflicts(toy(), [relation]) if c.score == 0.7]
    assert conflict[:6] == ("part of", part, whole, "unrelated", "part of", 0.7)


def test_evidence_that_agrees_with_the_taxonomy_is_no_conflict() -> None:
    agrees = pair(("street", "person"), ("park", "Person"), "equal")
    assert conflicts(toy(), [agrees]) == conflicts(toy())


def test_evidence_about_classes_the_taxonomy_does_not_have_is_left_out() -> None:
    assert conflicts(toy(), [pair(("elsewhere", "x"), ("street", "sky"))]) == conflicts(toy())


# Differences.


def test_a_taxonomy_does_not_differ_from_itself_in_another_order() -> None:
    taxonomy = toy()
    order = [3, 1, 4, 0, 2]
    groups = [taxonomy.members(u) for u in order]
    turned = Taxonomy.from_groups(taxonomy.spaces, groups, [taxonomy.unified.names[u] for u in order])
    assert difference(taxonomy, turned) == ((), ())


def test_a_split_a_merge_and_a_new_name_are_told_apart() -> None:
    spaces = [LabelSpace.of("a", ["x", "y"]), LabelSpace.of("b", ["x", "z"])]
    x, y, bx, z = ("a", "x"), ("a", "y"), ("b", "x"), ("b", "z")
    before = Taxonomy.from_groups(spaces, [[x, bx], [y], [z]], ["x", "y", "z"])
    after = Taxonomy.from_groups(spaces, [[x], [bx], [y, z]], ["left", "right", "y"])
    changes, moves = difference(before, after)
    assert changes == (
        ("changed", "x", "left", (), (bx,)),
        ("added", "", "right", (bx,), ()),
        ("changed", "y", "y", (z,), ()),
        ("removed", "z", "", (), (z,)),
    )
    assert [(m.member, m.before, m.after) for m in moves] == [(bx, ("x",), ("right",)), (z, ("z",), ("y",))]


def test_a_renamed_node_moves_no_class() -> None:
    before = Taxonomy.from_groups([STREET], [[("street", n)] for n in STREET.names])
    after = Taxonomy.from_groups([STREET], [[("street", n)] for n in STREET.names], ["way", "person", "sky"])
    changes, moves = difference(before, after)
    assert changes == (("renamed", "road", "way", (), ()),)
    assert moves == ()


def test_a_dataset_of_one_taxonomy_only_gains_its_classes() -> None:
    changes, moves = difference(Taxonomy.disjoint([STREET]), Taxonomy.by_name([STREET, PARK]))
    assert {c.kind for c in changes} == {"added", "changed"}
    assert [m.member for m in moves if not m.before] == [("park", n) for n in PARK.names]


@given(st.lists(st.integers(0, 8), min_size=9, max_size=9), st.lists(st.integers(0, 8), min_size=9, max_size=9))
def test_a_difference_is_empty_exactly_when_the_groups_are_equal(one: list[int], two: list[int]) -> None:
    classes = [(s.name, n) for s in (STREET, PARK, LANE) for n in s.names]

    def build(keys: list[int]) -> Taxonomy:
        groups = [[c for c, k in zip(classes, keys, strict=True) if k == key] for key in dict.fromkeys(keys)]
        return Taxonomy.from_groups([STREET, PARK, LANE], groups, [f"node of {g[0][1]} {len(g)} {g}" for g in groups])

    a, b = build(one), build(two)
    same = {frozenset(a.members(u)) for u in range(len(a.unified))} == {
        frozenset(b.members(u)) for u in range(len(b.unified))
    }
    assert (difference(a, b) == ((), ())) == same
    assert bool(difference(a, b).moves) == (not same)


# The page.


def test_nodes_of_one_coarse_class_stand_together() -> None:
    fine = LabelSpace.of("fine", ["a", "b", "c", "d"])
    coarse = LabelSpace.of("coarse", ["ac", "bd"])
    groups = [[("fine", f), ("coarse", c)] for f, c in [("a", "ac"), ("b", "bd"), ("c", "ac"), ("d", "bd")]]
    assert _order(Taxonomy.from_groups([fine, coarse], groups)) == [0, 2, 1, 3]


def test_most_shared_nodes_come_first() -> None:
    order = _order(toy())
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert order[:2] == [1, 0] or order[:2] == [0, 1]
    assert order[-1] == 3


def test_the_overview_counts_every_link_once() -> None:
    taxonomy = toy()
    flow = _flow(taxonomy, _nodes(taxonomy, [], [], None))
    assert {(r["name"], r["k"]): r["n"] for r in flow["ribbons"]} == {
        ("street", 3): 1, ("street", 2): 2, ("street", 1): 1,
        ("park", 3): 1, ("park", 2): 2, ("lane", 3): 1, ("lane", 2): 2,
    }  # fmt: skip
    assert [(b["k"], b["nodes"]) for b in flow["right"]] == [(3, 1), (2, 3), (1, 1)]


def test_the_page_is_one_file_and_shows_names_as_text(tmp_path: Path) -> None:
    page = write_explorer(tmp_path / "new" / "x.html", toy(), [pair(("park", EVIL), ("lane", "animal"))])
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)" in text
    assert all(target.startswith(("#", "data:")) for target in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert [p.name for p in page.parent.iterdir()] == ["x.html"]


def test_a_page_without_evidence_says_so(tmp_path: Path) -> None:
    text = write_explorer(tmp_path / "x.html", Taxonomy.disjoint([STREET])).read_text(encoding="utf-8")
    assert "no evidence was given" in text
    assert "What changed" not in text


def test_448_classes_fit_in_a_megabyte(tmp_path: Path) -> None:
    taxonomy = large()
    assert sum(map(len, taxonomy.spaces)) == 448
    page = write_explorer(tmp_path / "x.html", taxonomy, other=Taxonomy.disjoint(taxonomy.spaces))
    assert page.stat().st_size < 1_000_000
    assert page.read_text(encoding="utf-8").count('<tr class="node') == len(taxonomy.unified)


@needs_chromium
def test_a_browser_searches_448_classes_and_unfolds_a_node(tmp_path: Path) -> None:
    relation = pair(("set0", "thing 032"), ("set1", "thing 032"), "equal", 0.75, text=0.5)
    near = pair(("set0", "thing 032"), ("set3", "thing 100"), "overlaps", 0.4)
    crops = {("set0", "thing 032"): [np.full((40, 60, 3), 90, np.uint8)]}
    taxonomy = large()
    page = write_explorer(tmp_path / "x.html", taxonomy, [relation, near], crops, Taxonomy.disjoint(taxonomy.spaces))
    result = browse(
        page,
        """
        const event = (key) => new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true});
        const press = (key) => document.activeElement.dispatchEvent(event(key));
        const now = () => document.activeElement.textContent;
        found.linked = [search.value, visible().map((r) => button(r).textContent)];
        search.value = ""; search.dispatchEvent(new Event("input"));
        found.all = visible().length;
        search.value = "THING 032"; search.dispatchEvent(new Event("input"));
        found.hits = visible().map((r) => button(r).textContent);
        found.count = document.querySelector("#count").textContent;
        found.hash = location.hash;
        search.focus(); press("ArrowDown");
        found.focused = now();
        document.activeElement.click();
        const detail = document.querySelector("tr.detail");
        found.expanded = document.activeElement.getAttribute("aria-expanded");
        found.controls = document.activeElement.getAttribute("aria-controls") === detail.id;
        found.text = detail.textContent;
        found.images = detail.querySelectorAll("img").length;
        found.kin = document.querySelectorAll(".class.kin").length;
        press("Escape");
        found.closed = document.querySelector("tr.detail") === null;
        press("Escape");
        found.cleared = [search.value, visible().length, document.activeElement.id];
        press("ArrowDown"); const first = now(); press("ArrowDown"); const second = now(); press("ArrowUp");
        found.moved = [first !== second, now() === first];
        press("End"); found.end = now() === button(visible().at(-1)).textContent;
        show.value = "single"; show.dispatchEvent(new Event("input"));
        found.single = visible().length;
        order.value = "name"; order.dispatchEvent(new Event("input"));
        found.sorted = visible().slice(0, 2).map((r) => button(r).textContent);
        """,
        "#q=thing+033",
    )
    assert result["errors"] == []
    assert result["linked"] == ["thing 033", ["thing 033"]]
    assert result["all"] == len(taxonomy.unified) == 256
    assert result["hits"] == ["thing 032"]
    assert result["count"] == "1 of 256 nodes"
    assert result["hash"] == "#q=THING+032"
    assert result["focused"] == "thing 032"
    assert (result["expanded"], result["controls"], result["images"], result["kin"]) == ("true", True, 1, 2)
    assert "equal" in result["text"]
    assert "0.75" in result["text"]
    assert "text: 0.5" in result["text"]
    assert "set3 thing 100" in result["text"]
    assert result["closed"] is True
    assert result["cleared"] == ["", 256, "search"]
    assert result["moved"] == [True, True]
    assert result["end"] is True
    assert result["single"] == 64
    assert result["sorted"] == ["thing 000", "thing 001"]


@needs_chromium
def test_of_a_long_table_a_browser_lays_out_what_somebody_looks_at(tmp_path: Path) -> None:
    spaces = [LabelSpace.of(f"set{k}", [f"thing {k} {i:03}" for i in range(500)]) for k in range(4)]
    taxonomy = Taxonomy.disjoint(spaces)
    page = write_explorer(tmp_path / "x.html", taxonomy)
    result = browse(
        page,
        """
        const laid = () => rows.filter((row) => row.getBoundingClientRect().height > 0).length;
        const event = (key) => new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true});
        const press = (key) => document.activeElement.dispatchEvent(event(key));
        found.first = [visible().length, laid()];
        frame.scrollTop = frame.scrollHeight; frame.dispatchEvent(new Event("scroll"));
        found.scrolled = laid();
        search.value = "thing 3 499"; search.dispatchEvent(new Event("input"));
        found.searched = laid();
        search.value = ""; search.dispatchEvent(new Event("input"));
        found.cleared = laid();
        search.focus(); press("ArrowDown"); press("End");
        found.end = [document.activeElement === button(visible().at(-1)), laid()];
        """,
    )
    assert result["errors"] == []
    assert result["first"] == [2000, 200]
    assert result["scrolled"] == 400
    assert (result["searched"], result["cleared"]) == (1, 200)
    assert result["end"] == [True, 2000]


@needs_chromium
def test_a_browser_runs_no_script_that_a_class_name_holds(tmp_path: Path) -> None:
    relation = pair(("park", EVIL), ("lane", "animal"), "equal", 0.5, **{EVIL: EVIL})
    page = write_explorer(tmp_path / "x.html", toy(), [relation], other=Taxonomy.disjoint(toy().spaces))
    result = browse(
        page,
        "rows.forEach((row) => toggle(row, true)); found.scripts = document.scripts.length;"
        "found.text = document.body.innerText; found.joined = document.querySelectorAll('.class.up').length;",
        "#node=person",
    )
    assert result["errors"] == []
    # The one that catches errors, the data, the page's own, the test's.
    assert result["scripts"] == 4
    assert result["text"].count(EVIL) > 4


# The workbench.


def test_the_most_doubtful_relations_come_first_and_each_is_listed_once() -> None:
    pairs = [
        pair(("street", "person"), ("park", "Person"), "equal", 0.99),
        pair(("street", "sky"), ("lane", "animal"), "equal", 0.8),
        pair(("street", "sky"), ("park", "path"), "unrelated", 0.6),
        pair(("park", EVIL), ("lane", "animal"), "equal", 0.7),
    ]
    assert review(toy(), pairs) == [
        (("street", "sky"), [("lane", "animal"), ("park", "path")]),
        (("park", EVIL), [("lane", "animal")]),
    ]


@needs_chromium
def test_what_a_person_decides_by_clicks_and_keys_comes_out_as_files_that_are_read_again(tmp_path: Path) -> None:
    pairs = [
        pair(("street", "sky"), ("lane", "animal"), "equal", 0.6),
        pair(("park", EVIL), ("lane", "animal"), "equal", 0.7),
        pair(("street", "road"), ("park", "path"), "part of", 0.55),
    ]
    before = Constraints(cannot_link=((("street", "road"), ("lane", "animal")),))
    page = write_explorer(tmp_path / "x.html", toy(), pairs, decided=before)
    result = browse(
        page,
        """
        const made = [], given = Blob;
        window.Blob = class extends given {
          constructor(parts, type) { super(parts, type); made.push(parts.join("")); }
        };
        const named_ = [];
        HTMLAnchorElement.prototype.click = function () { named_.push(this.download); };
        const line = (a, b) => [...document.querySelectorAll(".line")].find((l) => l.ariaLabel === `${b} beside ${a}`);
        const evil = "<script>alert('x')</" + "script>";
        found.lines = document.querySelectorAll(".line").length;
        found.start = tsv();
        line("lane:animal", `park:${evil}`).querySelector("button[value=none]").click();
        const sky = line("lane:animal", "street:sky");
        sky.focus();
        sky.dispatchEvent(new KeyboardEvent("keydown", {key: "y", bubbles: true}));
        found.rows = [...document.querySelectorAll("tr.edited button")].map((b) => b.textContent);
        found.pressed = sky.querySelector("[aria-pressed=true]").value;
        document.dispatchEvent(new KeyboardEvent("keydown", {key: "u", bubbles: true}));
        found.undone = sky.querySelector("[aria-pressed=true]") === null;
        sky.querySelector("button[value=whole]").click();
        document.querySelector("#table").click(); document.querySelector("#constraints").click();
        found.names = named_; found.files = made;
        while (past.length) undo();
        found.back = tsv() === found.start;
        """,
    )
    assert result["errors"] == []
    assert (result["lines"], result["pressed"], result["undone"], result["back"]) == (3, "same", True, True)
    assert result["names"] == ["taxonomy.tsv", "constraints.toml"]
    for name, text in zip(result["names"], result["files"], strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    spaces = toy().spaces
    taxonomy = Taxonomy.read(tmp_path / "taxonomy.tsv", spaces)
    kept = Constraints.read(tmp_path / "constraints.toml", spaces)
    assert kept == Constraints(
        cannot_link=(*before.cannot_link, (("lane", "animal"), ("park", EVIL))),
        part_of=((("lane", "animal"), ("street", "sky")),),
    )
    nodes = {frozenset(taxonomy.members(u)) for u in range(len(taxonomy.unified))}
    assert {frozenset({("park", EVIL)}), frozenset({("lane", "animal"), ("street", "sky")})} <= nodes
    again = Taxonomy.read(tmp_path / "taxonomy.tsv", spaces)
    assert difference(taxonomy, again) == ((), ())


@needs_chromium
def test_a_decision_that_contradicts_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    pairs = [
        pair(("street", "person"), ("park", "Person"), "equal", 0.6),
        pair(("street", "person"), ("park", "path"), "equal", 0.5),
    ]
    page = write_explorer(tmp_path / "x.html", toy(), pairs)
    result = browse(
        page,
        """
        const all = [...document.querySelectorAll(".line")];
        all[0].querySelector("[value=same]").click();
        found.before = tsv();
        all[1].querySelector("[value=same]").click();
        found.same = tsv() === found.before; found.said = status.textContent; found.kept = decisions.size;
        """,
    )
    assert result["errors"] == []
    assert (result["same"], result["kept"]) == (True, 1)
    assert "are of one dataset, so they differ" in result["said"]

"""A language model that is asked about pairs in doubt: what it is sent, and what becomes of its answers."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from advice import follow

from manyseg.cli import app
from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace
from manyseg.models import chat, text
from manyseg.relate import Constraints, Problem, Questions, ask_judge, compatible
from manyseg.relate import judge as judge_module
from manyseg.relate.judge import TASK

A = LabelSpace("a", (LabelClass("road", description="asphalt"), LabelClass("car"), LabelClass("animal")))
B = LabelSpace.of("b", ["way", "auto", "horse"])
MEANINGS = {
    "road": (9, 1), "way": (7, 4), "car": (-1, 9), "auto": (3, 8), "animal": (-9, 1), "horse": (-8, -4),
}  # fmt: skip
TRUTH = {
    frozenset(("road", "way")): "same", frozenset(("car", "auto")): "same", ("animal", "horse"): "part",
    ("horse", "animal"): "whole",
}  # fmt: skip


def encode(texts):
    return np.array([next(v for k, v in MEANINGS.items() if k in t) for t in texts], np.float32)


def by_rule(task, asked):
    assert task == TASK
    out = {}
    for entry in json.loads(asked):
        assert entry.keys() == {"question", "class", "candidates"}
        x = entry["class"]["name"]
        names = [c["name"] for c in entry["candidates"]]
        out[str(entry["question"])] = [TRUTH.get((x, y), TRUTH.get(frozenset((x, y)), "none")) for y in names]
    return "Here it is:\n```json\n" + json.dumps(out) + "\n```"


@pytest.fixture(autouse=True)
def nearly_everything_is_in_doubt(monkeypatch):
    monkeypatch.setattr(judge_module, "DOUBT", 0.002)


@pytest.fixture
def questions():
    return Questions(Problem.of([A, B], "text", encode))


def test_the_judge_decides_what_is_in_doubt_and_is_asked_no_pair_twice(questions):
    kept, asked = [], []

    def answer(task, text):
        asked.append([(e["class"]["name"], c["name"]) for e in json.loads(text) for c in e["candidates"]])
        return by_rule(task, text)

    said = ask_judge(questions, answer, kept.append)
    pairs = [frozenset(p) for batch in asked for p in batch]
    assert len(pairs) == len(set(pairs)) == said.decided
    assert said.requests == len(asked) == len(kept)
    assert said.unknown == 0
    assert kept[-1] == questions.constraints
    assert questions.batch(10, 0.002) == []
    assert said.decided > 3
    for pairs, word in ((questions.constraints.must_link, "same"), (questions.constraints.part_of, "whole")):
        for (_, x), (_, y) in pairs:
            assert TRUTH.get((x, y), TRUTH.get(frozenset((x, y)))) == word


def test_only_names_and_descriptions_are_sent(questions):
    sent = []
    ask_judge(questions, lambda task, text: sent.append(text) or by_rule(task, text), lambda _: None)
    shown = [c for text in sent for e in json.loads(text) for c in (e["class"], *e["candidates"])]
    assert {"name": "road", "description": "asphalt"} in shown
    assert all(c.keys() <= {"name", "description"} for c in shown)


def test_what_cannot_be_read_of_an_answer_is_unknown(questions):
    said = ask_judge(questions, lambda *_: '{"1": ["same, I think"], "x": 5, "2": 7}', lambda _: None)
    assert said.decided == 0
    assert said.unknown == len(questions.constraints.unsure) > 0


@pytest.mark.parametrize("more", [1, -1])
def test_words_that_are_more_or_fewer_than_the_candidates_are_unknown(questions, more):
    """Nobody knows which candidate each is about; so does a model that repeats the example of the task."""

    def answer(_, text):
        return json.dumps({str(e["question"]): ["same"] * (len(e["candidates"]) + more) for e in json.loads(text)})

    assert ask_judge(questions, answer, lambda _: None).decided == 0
    assert questions.constraints.must_link == ()


def test_an_answer_that_contradicts_what_was_decided_is_unknown(questions):
    questions.answer(("a", "road"), {("b", "way"): "same"})

    def all_same(_, text):
        return json.dumps({str(e["question"]): ["same"] * len(e["candidates"]) for e in json.loads(text)})

    ask_judge(questions, all_same, lambda _: None)
    made = questions.constraints
    assert (("a", "road"), ("b", "way")) in made.must_link
    assert compatible(Constraints(), made, [A, B]) == made


@pytest.mark.parametrize("said", ["I would\nsay no", '{"question": 1, "class": {"name": "car"}}', "[1]", '"1"'])
def test_a_judge_that_never_answers_by_number_is_an_error_after_a_second_try(questions, said):
    """SmolLM2 with 135 million parameters repeats the question, which is a JSON object too."""
    tried = []
    begin = re.escape(" ".join(said.split()))
    with pytest.raises(UserError, match=rf"with the number of one: '{begin}'.*what it answered before is kept"):
        ask_judge(questions, lambda *_: tried.append(1) or said, lambda _: None)
    assert len(tried) == 2
    assert questions.constraints == Constraints()


def test_a_person_overrules_the_judge():
    road, way, auto = ("a", "road"), ("b", "way"), ("b", "auto")
    person = Constraints(must_link=((road, way),))
    judged = Constraints(
        must_link=((road, auto), (("a", "car"), auto)), cannot_link=((way, road),), part_of=((("b", "horse"), road),)
    )
    # The person's stay; road cannot be both way and auto, so that link is left out.
    found = compatible(person, judged, [A, B])
    assert set(found.must_link) == {(road, way), (("a", "car"), auto)}
    assert found.cannot_link == ()
    assert found.part_of == () or found.part_of == ((("b", "horse"), road),)
    with pytest.raises(UserError, match="linked and parted"):
        compatible(Constraints(must_link=((road, way),), cannot_link=((road, way),)), judged, [A, B])


# On the command line, with a server on the loopback.


@contextmanager
def server(statuses=()):
    requests, waiting = [], list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, self.headers["Authorization"], body))
            task, asked = (m["content"] for m in body["messages"])
            message = {"role": "assistant", "content": by_rule(task, asked)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            out = {"id": "1", "created": 0, "model": "m", "system_fingerprint": "", "choices": [choice], "usage": usage}
            data = json.dumps(out | {"object": "chat.completion"}).encode()
            self.send_response(waiting.pop(0) if waiting else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/v1", requests
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


CARD = """
name = "{name}"
image = "images/{{id}}.jpg"
mask = "masks/{{id}}.png"
encoding = "index"
splits = {{ train = "train.txt", val = "train.txt" }}
[classes]
{classes}
"""


@pytest.fixture
def cards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(text.TextEncoder, "__init__", lambda *_: None)
    monkeypatch.setattr(text.TextEncoder, "encode", lambda _, texts: encode(texts))
    for space in (A, B):
        classes = "\n".join(f"{n} = {i}" for i, n in enumerate(space.names))
        (tmp_path / f"{space.name}.toml").write_text(CARD.format(name=space.name, classes=classes))
    return ["a.toml", "b.toml"]


def labels(*arguments):
    """Run the command, and return what it printed, or raise its error."""
    from typer.testing import CliRunner

    out = CliRunner().invoke(app, ["labels", *arguments])
    if isinstance(out.exception, UserError):
        raise out.exception
    assert out.exit_code == 0, out.output
    return out.output


def test_answers_are_kept_in_a_file_that_can_be_edited_and_used_without_the_judge(cards, tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "WAITS", (0.01,))
    monkeypatch.setenv("MANYSEG_JUDGE_KEY", "secret")
    (tmp_path / "person.toml").write_text('cannot_link = ["a:road = b:auto"]\n')
    given = [*cards, "--by", "text", "--constraints", "person.toml", "--judged", "judged.toml"]
    with server(statuses=[503]) as (url, requests):
        said = labels(*given, "--judge", url, "--judge-model", "m")
        assert "pairs decided by m" in said
        first = len(requests)
        assert first >= 2  # The server was busy once.
        assert {(path, key, body["model"], body["temperature"]) for path, key, body in requests} == {
            ("/v1/chat/completions", "Bearer secret", "m", 0.0)
        }
        labels(*given, "--judge", url, "--judge-model", "m")
        assert len(requests) == first
    text = (tmp_path / "judged.toml").read_text()
    assert "a:road = b:auto" not in text
    assert labels(*given)
    (tmp_path / "judged.toml").write_text('must_link = ["a:animal = b:auto"]\n')
    labels(*given, "-o", "t.tsv")
    rows = [line.split("\t") for line in (tmp_path / "t.tsv").read_text().splitlines()]
    assert any(row[1:] == ["animal", "auto"] for row in rows)


def test_what_is_wrong_with_a_judge_is_said_in_one_line(cards, monkeypatch):
    monkeypatch.setattr(chat, "WAITS", ())
    with pytest.raises(UserError, match="name it with --judged"):
        labels(*cards, "--by", "text", "--judge", "http://127.0.0.1:9/v1", "--judge-model", "m")
    for_file = [*cards, "--by", "text", "--judged", "j.toml"]
    with pytest.raises(UserError, match="--judge-model"):
        labels(*for_file, "--judge", "http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match=r"127.0.0.1:9/v1 gave no answer: .*refused"):
        labels(*for_file, "--judge", "http://127.0.0.1:9/v1", "--judge-model", "m")
    with pytest.raises(UserError, match="'nowhere/at-all' is no language model"):
        labels(*for_file, "--judge", "./nowhere/at-all".removeprefix("./"))
    with pytest.raises(UserError, match=r"j.toml"):
        labels(*for_file)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("--judge {url} --judge-model m", "name it with --judged, it need not exist yet"),
        ("--judged j.toml --judge {url}", "name the one to ask with --judge-model"),
        (
            "--judged j.toml --judge http://127.0.0.1:9/v1 --judge-model m",
            "is the address right, is it running, is 'm' one of its models, is its key in MANYSEG_JUDGE_KEY",
        ),
    ],
)
def test_a_judge_is_asked_as_advised(cards, monkeypatch, wrong, said):
    monkeypatch.setattr(chat, "WAITS", ())
    common = [*cards, "--by", "text"]
    with server() as (url, _):
        follow(
            lambda: labels(*common, *wrong.format(url=url).split()),
            said,
            lambda: labels(*common, "--judged", "j.toml", "--judge", url, "--judge-model", "m"),
        )


def test_a_judge_that_follows_instructions_is_taken_as_advised(questions):
    follow(
        lambda: ask_judge(questions, lambda *_: "no", lambda _: None),
        r"take a model that follows such instructions \(what it answered before is kept\)",
        lambda: ask_judge(questions, by_rule, lambda _: None),
    )


def test_the_name_of_a_model_goes_with_its_server_as_advised(cards):
    from typer.testing import CliRunner

    common = ["labels", *cards, "--by", "text", "--judged", "j.toml", "--judge-model", "m"]
    refused = CliRunner().invoke(app, common)
    assert (refused.exit_code, "--judge-model goes with --judge URL" in refused.output) == (2, True)
    with server() as (url, _):
        assert CliRunner().invoke(app, [*common, "--judge", url]).exit_code == 0

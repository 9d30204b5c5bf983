"""What the API answers, and what it refuses."""

import base64
import io
import json
import struct
import time
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import encoded, served
from PIL import Image

from manyseg.data.files import image_size
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.serve.images import RequestError
from manyseg.serve.limits import Limits
from manyseg.serve.served import Served


def read(data):
    with Image.open(io.BytesIO(data)) as image:
        return image.mode, np.array(image)


def from_text(text):
    return read(base64.b64decode(text))[1]


def test_label_maps_of_all_label_spaces_are_those_of_the_model(site, runs, photo):
    status, found = site.json("/api/predict", photo)
    assert status == 200
    assert (found["run"], found["width"], found["height"]) == ("htss", 64, 48)
    assert [m["labels"] for m in found["maps"]] == ["unified", "fine", "coarse", "hierarchy"]
    model, image = runs[0].model, Image.open(io.BytesIO(photo))
    for answer in found["maps"]:
        expected = model.predict(image, answer["labels"], scores=answer["labels"] != "hierarchy")
        np.testing.assert_array_equal(from_text(answer["label_map"]), expected.labels)
        shares = {expected.names[c["value"]]: c["share"] for c in answer["classes"]}
        assert list(shares) == list(expected.shares) == [c["name"] for c in answer["classes"]]
        assert list(shares.values()) == pytest.approx(list(expected.shares.values()), abs=1e-6)
        colors = ["#" + bytes(expected.colors[c["value"]].tolist()).hex() for c in answer["classes"]]
        assert colors == [c["color"] for c in answer["classes"]]
        if answer["labels"] == "hierarchy":
            assert answer["confidence"] is None
            assert all(c["confidence"] is None for c in answer["classes"])
            continue
        scores = np.exp(expected.scores - expected.scores.max(0))
        best = (scores / scores.sum(0)).max(0)
        assert np.abs(from_text(answer["confidence"]) / 255 - best).max() < 0.003
        weighted = sum(c["share"] * c["confidence"] for c in answer["classes"] if c["confidence"] is not None)
        assert weighted == pytest.approx(best.mean(), abs=0.05)


def test_labels_and_runs_are_chosen_and_answered_in_the_order_asked_for(site, photo):
    _, found = site.json("/api/predict?labels=coarse&labels=fine&run=multihead", photo)
    assert (found["run"], [m["labels"] for m in found["maps"]]) == ("multihead", ["coarse", "fine"])


def test_a_mask_is_the_file_that_predict_writes_and_an_overlay_has_a_legend(site, runs, photo, tmp_path):
    status, headers, body = site.ask("/api/mask?labels=fine", photo)
    assert (status, headers["content-type"]) == (200, "image/png")
    expected = runs[0].model.predict(Image.open(io.BytesIO(photo)), "fine")
    mode, values = read(expected.save(tmp_path / "a.png").read_bytes())
    assert read(body)[0] == mode == "P"
    np.testing.assert_array_equal(read(body)[1], values)
    status, headers, body = site.ask("/api/overlay?labels=fine", photo)
    assert (status, headers["content-type"]) == (200, "image/png")
    np.testing.assert_array_equal(read(body)[1], np.array(expected.overlay()))


def test_the_label_spaces_are_listed_with_one_to_begin_with(site, runs):
    _, found = site.json("/api/labels")
    assert [(r["run"], r["default"], r["reads_words"]) for r in found] == [
        ("htss", "unified", False),
        ("multihead", "fine", False),  # its datasets share no node
    ]
    spaces = {s["labels"]: s for s in found[0]["spaces"]}
    assert list(spaces) == ["unified", "fine", "coarse", "hierarchy"]
    assert [c["name"] for c in spaces["fine"]["classes"]] == list(runs[0].run.spaces[0].names)
    assert spaces["fine"]["ignored"] == 255


def test_an_image_is_turned_as_its_exif_says(site):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40)).save(buffer, "JPEG", exif=exif)
    _, found = site.json("/api/predict?labels=fine", buffer.getvalue())
    assert (found["width"], found["height"]) == (40, 60)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_format_that_is_named_is_read(site, kind):
    assert site.ask("/api/mask", encoded(np.zeros((16, 16, 3), np.uint8), kind))[0] == 200


def test_the_api_describes_itself_without_another_host(site):
    _, api = site.json("/openapi.json")
    assert set(api["paths"]) == {"/health", "/metrics", "/api/labels", "/api/predict", "/api/mask", "/api/overlay"}
    assert "image/*" in api["paths"]["/api/predict"]["post"]["requestBody"]["content"]
    status, headers, page = site.ask("/docs")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert all(path in page.decode() for path in api["paths"])
    assert "http" not in page.decode().replace("http://127.0.0.1:8000", "")


def header_of(width, height):
    """A PNG whose header alone promises a large image."""
    fields = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rest = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", fields) + rest


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/predict", b"hello", 415, "no image of a known format"),
        ("/api/predict", b"", 422, "the body is empty"),
        ("/api/predict", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "no image"),
        ("/api/predict", header_of(30000, 2500), 413, "30000x2500 has more than 50 million pixels"),
        ("/api/predict", header_of(30000, 30000), 413, "more than 50 million pixels"),
        ("/api/predict", header_of(64, 64), 422, "broken or ends too early"),
        ("/api/predict?run=other", None, 422, "no run 'other' here; there are: htss, multihead"),
        ("/api/predict?labels=../../x.toml", None, 422, "no labels '../../x.toml' in this run"),
        ("/api/predict?labels=/etc/passwd", None, 422, "no labels"),
        ("/api/mask?labels=road,%20sky", None, 422, "there are: unified, fine, coarse, hierarchy"),
        ("/api/predict?" + "&".join(f"labels=a{i}" for i in range(40)), None, 422, "40 label spaces"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(site, photo, path, body, status, said):
    found, answer = site.json(path, photo if body is None else body)
    assert (found, said in answer["detail"]) == (status, True), answer


def test_a_card_on_the_servers_disk_is_not_read(site, world, photo):
    """`predict` takes the path of a card; a stranger may not."""
    card = world.cards["fine"]
    assert card.exists()
    assert site.json(f"/api/predict?labels={card}", photo)[0] == 422


@pytest.mark.parametrize(
    "path", ["/static/serve.html", "/static/..%2fstyle.css", "/static/%2e%2e/style.css", "/workbench/7", "/etc/passwd"]
)
def test_no_path_leads_to_a_file(site, path):
    assert site.ask(path)[0] == 404


def test_headers_let_a_browser_do_nothing_else(site):
    for path in ("/", "/health", "/nothing", "/static/page.js"):
        _, headers, _ = site.ask(path)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["access-control-allow-origin"] is None
        assert headers["server"] is None


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:8000", 200), ("[::1]:80", 200), ("192.168.1.7", 200), ("LOCALHOST", 200),
     ("evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421), ("[", 421), ("localhost.evil", 421)],
)  # fmt: skip
def test_only_names_of_this_server_are_answered(site, host, status):
    assert site.ask("/health", Host=host)[0] == status


def test_a_page_of_another_origin_may_not_post(site, photo):
    assert site.ask("/api/mask", photo, Origin="http://evil.example")[0] == 403
    assert site.ask("/api/mask", photo, Origin="null")[0] == 403
    assert site.ask("/workbench/0", b"{}", Origin="http://evil.example")[0] == 403
    assert site.ask("/api/mask", photo, Origin=site.address)[0] == 200


def test_a_token_is_needed_everywhere_but_for_the_health(runs, photo):
    with served(runs[:1], token="secret-1") as site:
        paths = ["/", "/docs", "/static/page.js", "/api/labels", "/metrics", "/openapi.json", "/workbench/0", "/x"]
        assert [site.ask(path)[0] for path in paths] == [401] * len(paths)
        assert site.ask("/api/mask", photo)[0] == 401
        assert site.ask("/health")[0] == 200
        assert site.ask("/api/labels", Authorization="Bearer wrong")[0] == 401
        assert site.ask("/api/labels?token=secret-1")[0] == 401  # only the page's address takes it
        assert site.ask("/api/labels", Authorization="Bearer secret-1")[0] == 200
        status, headers, _ = site.ask("/?token=secret-1")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert site.ask("/", Cookie=cookie.split(";")[0])[0] == 200
        assert site.ask("/", Cookie="manyseg_token=; manyseg_token")[0] == 401


def test_a_client_that_asks_too_often_is_told_when_to_come_again(runs):
    """60 a minute, of which a fifth may come at once: the 13th in a row is too early, by less than a second."""
    with served(runs[:1], Limits(rate=60)) as site:
        answers = [site.ask("/api/labels") for _ in range(40)]
        late = [headers for status, headers, _ in answers if status == 429]
        assert late
        assert answers[11][0] == 200
        assert {headers["retry-after"] for headers in late} == {"1"}
        assert site.ask("/health")[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_that_is_too_large_is_not_read_to_its_end(runs, chunked):
    with served(runs[:1], Limits(upload=1000, rate=10**6)) as site:
        body = iter([b"x" * 600] * 3) if chunked else b"x" * 1800
        status, answer = site.json("/api/mask", body)
        assert (status, answer["detail"]) == (413, "more than 0.001 MB were sent; send a smaller image")


def held(site):
    text = site.ask("/metrics")[2].decode()
    return int(text.split("\nmanyseg_upload_bytes ")[1].split()[0])


def test_uploads_have_a_bound_together_and_come_later_as_advised(runs, photo):
    """One client sends most of what all may hold, and waits; another is told to come again."""
    with served(runs[:1], Limits(upload=len(photo), rate=10**6)) as site:
        most = 8 * len(photo)
        slow = []
        for _ in range(8):
            slow.append(site.connect())
            head = f"POST /api/mask HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(photo)}\r\n\r\n"
            slow[-1].sendall(head.encode() + photo[:-1])
        while held(site) < most - 8:
            time.sleep(0.01)
        status, headers, _ = site.ask("/api/mask", photo)
        assert (status, headers["retry-after"]) == (503, "1")
        for connection in slow:
            connection.close()
        while held(site):
            time.sleep(0.01)
        assert site.ask("/api/mask", photo)[0] == 200


def test_metrics_count_requests_images_and_passes(runs, photo):
    with served(runs[:1]) as site:
        site.ask("/api/mask", photo)
        site.ask("/api/mask", b"hello")
        site.ask("/nothing")
        text = site.ask("/metrics")[2].decode()
    assert 'manyseg_requests_total{path="/api/mask",status="200"} 1\n' in text
    assert 'manyseg_requests_total{path="/api/mask",status="415"} 1\n' in text
    assert 'manyseg_requests_total{path="other",status="404"} 1\n' in text
    assert 'manyseg_images_total{run="htss"} 1\n' in text
    assert "manyseg_predict_seconds_count 1\n" in text
    assert "manyseg_request_seconds_count 2\n" in text
    assert "manyseg_images_waiting 0\n" in text


STREET = LabelSpace.of("street", ["road", "sky"])


def reader(reads_words):
    method = SimpleNamespace(reads_words=reads_words, hierarchy=None, taxonomy=Taxonomy.disjoint([STREET]))
    return Served("a", None, SimpleNamespace(method=method, taxonomy=method.taxonomy, spaces=[STREET]), None)


def test_a_model_that_reads_words_takes_any_and_no_path():
    assert reader(True).output("grass, /etc/passwd").space.names == ("grass", "/etc/passwd")
    assert reader(True).output("x.toml").space.names == ("x.toml",)
    assert reader(True).output("street").space == STREET
    for bad in (" , ", ",".join(map(str, range(101))), "x" * 5000, "a|b"):
        with pytest.raises(RequestError):
            reader(True).output(bad)
    with pytest.raises(RequestError, match="no labels 'grass'"):
        reader(False).output("grass")


def test_the_size_of_an_answer_is_that_of_the_photo_when_the_model_sees_a_smaller_one(folders, photo):
    from manyseg.serve.server import open_runs

    (small,) = open_runs(folders[:1], ["test.max_side=32"])
    with served([small]) as site:
        status, _, body = site.ask("/api/mask", photo)
        assert status == 200
        with Image.open(io.BytesIO(body)) as image:
            assert image_size(image) == (48, 64)
        (found,) = json.loads(site.ask("/api/predict?labels=fine", photo)[2])["maps"]
        assert from_text(found["confidence"]).shape[1] <= 32

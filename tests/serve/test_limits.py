"""Requests a minute, and counters, by hand."""

from manyseg.serve.limits import CLIENTS, Rate
from manyseg.serve.metrics import Metrics


def test_a_fifth_of_a_minutes_requests_may_come_at_once_and_then_one_by_one():
    """60 a minute: twelve at once, then one a second."""
    rate = Rate(60)
    assert [rate.wait("a", 100.0) for _ in range(12)] == [0.0] * 12
    assert rate.wait("a", 100.0) == 1.0
    assert rate.wait("a", 100.25) == 0.75
    assert rate.wait("b", 100.25) == 0.0
    assert rate.wait("a", 101.0) == 0.0
    assert rate.wait("a", 101.0) == 1.0
    assert [rate.wait("a", 1000.0) for _ in range(13)] == [0.0] * 12 + [1.0]


def test_clients_are_forgotten_those_that_were_not_seen_for_longest_first():
    rate = Rate(5)  # a fifth is one request
    assert (rate.wait("a", 0.0), rate.wait("b", 0.0)) == (0.0, 0.0)
    assert rate.wait("a", 0.0) == 12.0
    for i in range(CLIENTS - 1):
        rate.wait(str(i), 0.0)
    assert rate.wait("a", 0.0) == 12.0
    assert rate.wait("b", 0.0) == 0.0


def test_metrics_are_written_as_prometheus_reads_them():
    metrics = Metrics()
    metrics.count("manyseg_requests_total", path='/"\\', status="200")
    metrics.count("manyseg_requests_total", 2, path="/", status="200")
    for seconds in (0.01, 0.2, 99):
        metrics.time("manyseg_predict_seconds", seconds)
    metrics.gauge("manyseg_images_waiting", lambda: 3)
    lines = metrics.to_text().splitlines()
    assert "# TYPE manyseg_requests_total counter" in lines
    assert 'manyseg_requests_total{path="/",status="200"} 2' in lines
    assert 'manyseg_requests_total{path="/\\"\\\\",status="200"} 1' in lines
    buckets = {line.split('"')[1]: int(line.split()[-1]) for line in lines if "predict_seconds_bucket" in line}
    assert (buckets["0.01"], buckets["0.1"], buckets["0.25"], buckets["30"], buckets["+Inf"]) == (1, 1, 2, 2, 3)
    assert "manyseg_predict_seconds_sum 99.210000" in lines
    assert "manyseg_predict_seconds_count 3" in lines
    assert "manyseg_images_waiting 3" in lines
    assert metrics.mean("manyseg_predict_seconds") == 99.21 / 3
    assert metrics.mean("manyseg_request_seconds") == 0

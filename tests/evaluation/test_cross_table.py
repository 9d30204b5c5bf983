"""Every head on every dataset through fitted maps."""

import numpy as np
import pytest
from echo import STREET, TAXONOMY, Echo, write

from manyseg.data import load
from manyseg.errors import UserError
from manyseg.evaluation.cross_table import cross_table, map_counts
from manyseg.evaluation.evaluate import collect


def test_a_map_of_counts_sends_each_node_to_its_class():
    relation = np.array([[1, 1, 0, 0], [0, 0, 1, 0]], bool)
    counts = map_counts(np.array([[5, 1, 2, 3], [0, 4, 6, 0]]), relation)
    assert counts.tolist() == [[6, 2, 3], [4, 6, 0]]
    with pytest.raises(ValueError, match="several classes"):
        map_counts(np.ones((2, 4), int), np.ones((2, 4), bool))


def test_the_cross_table_fits_each_head_on_one_split_and_scores_another(tmp_path):
    # The head of `park` says path (node 3) on street's road and tree (node 4) elsewhere, so it can tell two classes.
    write(tmp_path, "street", STREET.names, [([[3, 3, 4, 4, 4]], [[0, 0, 1, 1, 1]])], "train")
    write(tmp_path, "street", STREET.names, [([[3, 4, 4]], [[0, 1, 0]])], "val")
    method = Echo(TAXONOMY)
    fit, score = (collect(method, [load(tmp_path / "street.toml", tmp_path / "street", s)]) for s in ("train", "val"))
    table = cross_table({"street": STREET}, fit, score)
    assert set(table.confusions) == {("street", "street"), ("street", "park"), ("street", "unified")}
    park = table.confusions["street", "park"]
    assert park.counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert park.miou == pytest.approx(0.5)
    assert "| park | 50.0 | 50.0 |" in table.to_markdown()
    with pytest.raises(UserError, match="1 images of 'street' would both"):
        cross_table({"street": STREET}, fit, fit)

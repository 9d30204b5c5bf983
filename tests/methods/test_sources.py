"""Sources of taxonomies and statistics: how recipes spell them, what they become, how every method reads them."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from manyseg import testing
from manyseg.config import check
from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.methods.baselines import Manual
from manyseg.methods.htss import HTSS
from manyseg.methods.lmseg import LMSeg
from manyseg.methods.sources import (
    PROPOSAL,
    StageStatistics,
    StageTaxonomy,
    StatisticsSource,
    TaxonomySource,
    resolve_statistics,
    resolve_taxonomy,
)
from manyseg.methods.unified_nodes import UnifiedNodes
from manyseg.models import PixelEncoder
from manyseg.relate.statistics import Statistics


class Options(BaseModel):
    taxonomy: TaxonomySource = PROPOSAL
    statistics: StatisticsSource | None = None


@pytest.mark.parametrize(
    ("text", "taxonomy", "statistics"),
    [
        ("tables/mine.tsv", Path("tables/mine.tsv"), Path("tables/mine.tsv")),
        ("stage:heads", StageTaxonomy("heads"), StageStatistics("heads")),
    ],
)
def test_a_text_becomes_what_the_type_of_its_option_says_and_is_written_as_it_was(text, taxonomy, statistics):
    options = Options.model_validate({"taxonomy": text, "statistics": text})
    assert (options.taxonomy, options.statistics) == (taxonomy, statistics)
    assert options.model_dump(mode="json") == {"taxonomy": text, "statistics": text}


def test_the_proposal_is_a_taxonomy_but_no_statistics():
    options = Options.model_validate({"taxonomy": "proposal", "statistics": "proposal"})
    assert options.taxonomy == PROPOSAL
    assert options.statistics == Path("proposal")
    assert options.model_dump(mode="json")["taxonomy"] == "proposal"


@pytest.mark.parametrize("key", ["taxonomy", "statistics"])
def test_what_is_no_text_is_refused_in_one_line(key):
    with pytest.raises(UserError, match=rf'r.toml: {key}: give the path of .* "stage:<name>" \(it is 5\)'):
        check(Options, {key: 5}, Path("r.toml"))


def test_what_is_in_memory_stays_the_same_object():
    known = Statistics("key", {}, {}, {}, {}, {})
    taxonomy = testing.toy_taxonomy()
    options = Options(taxonomy=taxonomy, statistics=known)
    assert resolve_taxonomy(options.taxonomy, testing.toy_spaces()) is taxonomy
    assert resolve_statistics(options.statistics) is known


def test_a_stage_exists_within_a_run_only():
    with pytest.raises(UserError, match="'stage:heads' is a stage of a run"):
        resolve_taxonomy(StageTaxonomy("heads"), testing.toy_spaces())
    with pytest.raises(UserError, match="'stage:heads' is a stage of a run"):
        resolve_statistics(StageStatistics("heads"))


READERS = {
    "manual": lambda encoder, source: Manual(encoder, testing.toy_spaces(), taxonomy=source),
    "htss": lambda encoder, source: HTSS(encoder, testing.toy_spaces(), taxonomy=source),
    "lmseg": lambda encoder, source: LMSeg(encoder, testing.toy_spaces(), classifier="taxonomy", taxonomy=source),
    "unified_nodes": lambda encoder, source: UnifiedNodes(encoder, testing.toy_spaces(), init=source),
}


@pytest.mark.parametrize("name", READERS)
def test_every_method_takes_a_table_and_a_taxonomy_but_none_of_other_datasets(name, tmp_path):
    def make(source):
        return READERS[name](PixelEncoder.build(backbone="tiny", pretrained=False, channels=8), source)

    path = tmp_path / "table.tsv"
    Taxonomy.by_name(testing.toy_spaces()).write(path)
    assert make(path).taxonomy.to_tsv() == make(Taxonomy.by_name(testing.toy_spaces())).taxonomy.to_tsv()
    assert make(path).taxonomy.to_tsv() == path.read_text()
    other = Taxonomy.by_name([LabelSpace.of("elsewhere", ["x", "y"])])
    with pytest.raises(UserError, match="the taxonomy relates the label spaces of elsewhere, the recipe those of fine"):
        make(other)

"""Find out what labels mean together, before any training: names, texts and confusions to one taxonomy.

Only numpy and scipy; a text encoder is any callable from texts to vectors.
"""

from manyseg.relate.compare import Agreement, agreement
from manyseg.relate.evidence import TEMPLATES, Encode, Flat, shares, text_similarity
from manyseg.relate.part_of import PartOf, add_mined, mine_calibrated, mine_published, read_relations, relations_tsv
from manyseg.relate.pins import Pins
from manyseg.relate.programme import merge, partition, recall_shares
from manyseg.relate.proposal import Proposal, Relation, propose

__all__ = [
    "TEMPLATES",
    "Agreement",
    "Encode",
    "Flat",
    "PartOf",
    "Pins",
    "Proposal",
    "Relation",
    "add_mined",
    "agreement",
    "merge",
    "mine_calibrated",
    "mine_published",
    "partition",
    "propose",
    "read_relations",
    "recall_shares",
    "relations_tsv",
    "shares",
    "text_similarity",
]

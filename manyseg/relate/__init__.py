"""Find out what labels mean together, before any training: names, texts and confusions to one taxonomy.

Only numpy and scipy; a text encoder is any callable from texts to vectors.
"""

from manyseg.relate.compare import Agreement, agreement
from manyseg.relate.evidence import TEMPLATES, Encode, Flat, shares, text_similarity
from manyseg.relate.pins import Pins
from manyseg.relate.programme import merge, partition, recall_shares
from manyseg.relate.proposal import Proposal, Relation, propose

__all__ = [
    "TEMPLATES",
    "Agreement",
    "Encode",
    "Flat",
    "Pins",
    "Proposal",
    "Relation",
    "agreement",
    "merge",
    "partition",
    "propose",
    "recall_shares",
    "shares",
    "text_similarity",
]

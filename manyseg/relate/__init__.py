"""Find out what labels mean together, before any training: names, texts and confusions to one taxonomy.

Only numpy and scipy; a text encoder is any callable from texts to vectors.
"""

from manyseg.relate.compare import Agreement, agreement
from manyseg.relate.confusion_evidence import ConfusionRates, Counts, confusion_rates, read_confusion, recall_matrix
from manyseg.relate.constraints import Constraints
from manyseg.relate.judge import Answer, Judged, ask_judge, compatible
from manyseg.relate.part_of import PartOf, add_mined, mine_calibrated, mine_published, part_of_tsv, read_part_of
from manyseg.relate.programme import merge, partition
from manyseg.relate.proposal import By, ClassPair, Problem, Proposal, propose
from manyseg.relate.questions import Candidate, Question, Questions, Reply
from manyseg.relate.text_evidence import TEMPLATES, Encode, text_similarity

__all__ = [
    "TEMPLATES",
    "Agreement",
    "Answer",
    "By",
    "Candidate",
    "ClassPair",
    "ConfusionRates",
    "Constraints",
    "Counts",
    "Encode",
    "Judged",
    "PartOf",
    "Problem",
    "Proposal",
    "Question",
    "Questions",
    "Reply",
    "add_mined",
    "agreement",
    "ask_judge",
    "compatible",
    "confusion_rates",
    "merge",
    "mine_calibrated",
    "mine_published",
    "part_of_tsv",
    "partition",
    "propose",
    "read_confusion",
    "read_part_of",
    "recall_matrix",
    "text_similarity",
]

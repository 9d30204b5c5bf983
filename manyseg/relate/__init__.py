"""Find out what labels mean together, before any training: names, texts and confusions to one taxonomy.

Only numpy and scipy; a text encoder is any callable from texts to vectors.
"""

from typing import TYPE_CHECKING

from manyseg.lazy import first_use

if TYPE_CHECKING:
    from manyseg.relate.compare import Agreement as Agreement
    from manyseg.relate.compare import agreement as agreement
    from manyseg.relate.confusion_evidence import ConfusionRates as ConfusionRates
    from manyseg.relate.confusion_evidence import Counts as Counts
    from manyseg.relate.confusion_evidence import confusion_rates as confusion_rates
    from manyseg.relate.confusion_evidence import read_confusion as read_confusion
    from manyseg.relate.confusion_evidence import recall_matrix as recall_matrix
    from manyseg.relate.constraints import Constraints as Constraints
    from manyseg.relate.judge import Answer as Answer
    from manyseg.relate.judge import Judged as Judged
    from manyseg.relate.judge import ask_judge as ask_judge
    from manyseg.relate.judge import compatible as compatible
    from manyseg.relate.part_of import PartOf as PartOf
    from manyseg.relate.part_of import add_mined as add_mined
    from manyseg.relate.part_of import mine_calibrated as mine_calibrated
    from manyseg.relate.part_of import mine_published as mine_published
    from manyseg.relate.part_of import part_of_tsv as part_of_tsv
    from manyseg.relate.part_of import read_part_of as read_part_of
    from manyseg.relate.programme import merge as merge
    from manyseg.relate.programme import partition as partition
    from manyseg.relate.proposal import By as By
    from manyseg.relate.proposal import ClassPair as ClassPair
    from manyseg.relate.proposal import Problem as Problem
    from manyseg.relate.proposal import Proposal as Proposal
    from manyseg.relate.proposal import propose as propose
    from manyseg.relate.questions import Candidate as Candidate
    from manyseg.relate.questions import Question as Question
    from manyseg.relate.questions import Questions as Questions
    from manyseg.relate.questions import Reply as Reply
    from manyseg.relate.text_evidence import TEMPLATES as TEMPLATES
    from manyseg.relate.text_evidence import Encode as Encode
    from manyseg.relate.text_evidence import text_similarity as text_similarity

_PLACES = {
    "Agreement": "manyseg.relate.compare",
    "Answer": "manyseg.relate.judge",
    "By": "manyseg.relate.proposal",
    "Candidate": "manyseg.relate.questions",
    "ClassPair": "manyseg.relate.proposal",
    "ConfusionRates": "manyseg.relate.confusion_evidence",
    "Constraints": "manyseg.relate.constraints",
    "Counts": "manyseg.relate.confusion_evidence",
    "Encode": "manyseg.relate.text_evidence",
    "Judged": "manyseg.relate.judge",
    "PartOf": "manyseg.relate.part_of",
    "Problem": "manyseg.relate.proposal",
    "Proposal": "manyseg.relate.proposal",
    "Question": "manyseg.relate.questions",
    "Questions": "manyseg.relate.questions",
    "Reply": "manyseg.relate.questions",
    "TEMPLATES": "manyseg.relate.text_evidence",
    "add_mined": "manyseg.relate.part_of",
    "agreement": "manyseg.relate.compare",
    "ask_judge": "manyseg.relate.judge",
    "compatible": "manyseg.relate.judge",
    "confusion_rates": "manyseg.relate.confusion_evidence",
    "merge": "manyseg.relate.programme",
    "mine_calibrated": "manyseg.relate.part_of",
    "mine_published": "manyseg.relate.part_of",
    "part_of_tsv": "manyseg.relate.part_of",
    "partition": "manyseg.relate.programme",
    "propose": "manyseg.relate.proposal",
    "read_confusion": "manyseg.relate.confusion_evidence",
    "read_part_of": "manyseg.relate.part_of",
    "recall_matrix": "manyseg.relate.confusion_evidence",
    "text_similarity": "manyseg.relate.text_evidence",
}

__getattr__ = first_use(__name__, _PLACES)

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

"""Final answers: how they are found in a text, compared, and counted as votes."""

from filters.answers.boxed import final_boxes
from filters.answers.equivalence import equivalent
from filters.answers.voting import agree, final_answer, tally

__all__ = ["agree", "equivalent", "final_answer", "final_boxes", "tally"]

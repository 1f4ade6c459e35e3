"""A vote among answers: which final answer most of them give, equal ones counted together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from filters.answers.boxed import final_answer
from filters.answers.equivalence import equivalent

# Comparing all answers may take so long; what is not compared by then stands for itself.
LIMIT_S = 30.0

Same = Callable[[str, str], bool]


class Vote(NamedTuple):
    """What came of a vote."""

    answer: str  # the winning answer as most of its voters wrote it
    votes: int  # answers that give it
    total: int  # all answers, those without a final answer included


def agree(answers: Sequence[str], same: Same | None = None) -> Vote | None:
    r"""Returns the final answer that more answers give than any other; None where there is none.

    `same` says whether two final answers are equal; by default as `math_answer` has it.

    >>> agree([r"\boxed{12}", r"So it is $\boxed{12}$.", r"\boxed{13}", "no idea"])
    Vote(answer='12', votes=2, total=4)
    >>> agree([r"\boxed{12}", r"\boxed{13}"]) is None
    True
    """
    votes = tally(answers, same)
    if not votes or (len(votes) > 1 and votes[0][1] == votes[1][1]):
        return None
    return Vote(*votes[0], len(answers))


def tally(answers: Sequence[str], same: Same | None = None) -> list[tuple[str, int]]:
    r"""Returns the final answers and how many give each, most votes first.

    Counted is what the last `\boxed{...}` holds. Answers that are equal as `math_answer` has it
    (1/2, 0.5 and \frac12) are one, in their commonest form. The order of the answers does not
    matter. Each written form joins the first of the groups, commonest form first, whose commonest
    form it equals: equality to within rounding is not transitive.
    """
    finals = [final for answer in answers if (final := final_answer(answer))]
    groups = tally_weighted([(final, 1) for final in finals], same)
    return [(group[0], round(weight)) for group, weight in groups]


def tally_weighted(
    finals: Sequence[tuple[str, float]], same: Same | None = None
) -> list[tuple[list[str], float]]:
    """Returns final answers, given with the weight of each, in groups of equal ones.

    Beside each group is its weight; the heaviest comes first.
    """
    forms: dict[str, float] = {}
    for final, weight in finals:
        forms[final] = forms.get(final, 0) + weight
    groups: list[list[str]] = []
    end = time.monotonic() + LIMIT_S
    for form in sorted(forms, key=lambda form: (-forms[form], len(form), form)):
        for group in groups:
            if time.monotonic() < end and (same or equivalent)(group[0], form):
                group.append(form)
                break
        else:
            groups.append([form])
    weighed = [(group, sum(forms[form] for form in group)) for group in groups]
    return sorted(weighed, key=lambda item: -item[1])

"""Traces written by a program, for which the truth is known: two skills, in several wordings.

sums     What is 7 + 5 - 3?              three numbers below 10, no running total below 0
letters  Sort these letters: k c r b m   five letters, none twice

Every wording is drawn at random, so a trace is one sample of a distribution over texts, as the
trace of a model is. Questions that are held out are in no training set.
"""

import random

from synth.record import Generation, Record, Task

SKILLS = ("sums", "letters")
HELD_OUT = 200  # questions of a skill

_PLUS = ("{a} + {b} = {c}.", "{a} plus {b} is {c}.", "{a} and {b} make {c}.")
_MINUS = ("{a} - {b} = {c}.", "{a} minus {b} is {c}.", "{a} without {b} leaves {c}.")
_OPEN_SUM = ("From left to right.", "Step by step.", "I start at the left.")
_OPEN_SORT = ("In the order of the alphabet.", "One after the other.", "I look for the first.")
_NEXT = ("Then {x}.", "Next is {x}.", "After it {x}.")


def sums(chance):
    """A question, its worked reasoning and its answer."""
    while True:
        numbers = [chance.randint(1, 9) for _ in range(3)]
        signs = [chance.choice("+-") for _ in range(2)]
        totals = [numbers[0]]
        for sign, number in zip(signs, numbers[1:], strict=True):
            totals.append(totals[-1] + (number if sign == "+" else -number))
        if min(totals) >= 0:
            break
    terms = " ".join(f"{sign} {number}" for sign, number in zip(signs, numbers[1:], strict=True))
    steps = [chance.choice(_OPEN_SUM)]
    for sign, number, before, after in zip(signs, numbers[1:], totals, totals[1:], strict=False):
        wording = chance.choice(_PLUS if sign == "+" else _MINUS)
        steps.append(wording.format(a=before, b=number, c=after))
    return f"What is {numbers[0]} {terms}?", " ".join(steps), str(totals[-1])


def letters(chance):
    """The same for five letters to sort."""
    given = chance.sample("abcdefghijklmnopqrstuvwxyz", 5)
    first, *rest = sorted(given)
    steps = [chance.choice(_OPEN_SORT), f"First {first}."]
    steps += [chance.choice(_NEXT).format(x=letter) for letter in rest]
    return f"Sort these letters: {' '.join(given)}", " ".join(steps), " ".join(sorted(given))


def traces(skill, number, seed, without=()):
    """So many traces of a skill, each question once and none of those in `without`."""
    make = {"sums": sums, "letters": letters}[skill]
    chance = random.Random(f"{skill}/{seed}")
    found, seen = [], set(without)
    while len(found) < number:
        question, reasoning, answer = make(chance)
        if question in seen:
            continue
        seen.add(question)
        place = f"{skill}-{seed}-{len(found)}"
        found.append(
            Record(
                id=place,
                task=Task(id=place, question=question, answer=answer, source=skill),
                messages=[{"role": "user", "content": question}],
                reasoning=reasoning,
                answer=answer,
                generation=_by(skill, place),
            )
        )
    return found


def held_out(skill):
    """The questions on which every student is measured."""
    return traces(skill, HELD_OUT, "held out")


def training(skill, number, seed, without=()):
    """Traces to learn from; other seeds, other traces."""
    questions = {record.task.question for record in held_out(skill)}
    return traces(skill, number, seed, questions | set(without))


def _by(skill, key):
    """The teacher of a skill stands as the one who wrote its traces."""
    return Generation(
        teacher=skill,
        model="program",
        template="plain",
        template_hash="",
        sampling={},
        sample=0,
        finish_reason="stop",
        prompt_tokens=None,
        completion_tokens=None,
        cost_usd=None,
        latency_s=0.0,
        key=key,
    )

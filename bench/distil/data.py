"""Traces written by a program, for which the truth is known: two skills, in several wordings.

backwards  Turn these letters around: k c r b m   five letters, none twice
letters    Sort these letters: k c r b m          the same

Every wording is drawn at random, so a trace is one sample of a distribution over texts, as the
trace of a model is. Questions that are held out are in no training set.
"""

import random

from synth.core.record import Generation, Record, Task

SKILLS = ("backwards", "letters")
HELD_OUT = 200  # questions of a skill

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_OPEN_TURN = ("From right to left.", "Backwards.", "I start at the right.")
_OPEN_SORT = ("In the order of the alphabet.", "One after the other.", "I look for the first.")
_BEFORE = ("Before it {x}.", "Left of it {x}.", "{x} stands before.")
_NEXT = ("Then {x}.", "Next is {x}.", "After it {x}.")


def backwards(chance):
    """A question, its worked reasoning and its answer."""
    given = chance.sample(_LETTERS, 5)
    turned = given[::-1]
    steps = [chance.choice(_OPEN_TURN), f"The last is {turned[0]}."]
    steps += [chance.choice(_BEFORE).format(x=letter) for letter in turned[1:]]
    return f"Turn these letters around: {' '.join(given)}", " ".join(steps), " ".join(turned)


def letters(chance):
    """The same for five letters to sort."""
    given = chance.sample(_LETTERS, 5)
    first, *rest = sorted(given)
    steps = [chance.choice(_OPEN_SORT), f"First {first}."]
    steps += [chance.choice(_NEXT).format(x=letter) for letter in rest]
    return f"Sort these letters: {' '.join(given)}", " ".join(steps), " ".join(sorted(given))


def traces(skill, number, seed, without=()):
    """So many traces of a skill, each question once and none of those in `without`."""
    make = {"backwards": backwards, "letters": letters}[skill]
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

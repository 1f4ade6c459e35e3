"""Real traces, and defects planted in them: what `quality_form.py` measures the filters on."""

import gzip
import json
import re
from typing import NamedTuple

from synth.core.reasoning import DIALECTS, split_trace
from synth.core.record import Record, Task

# Seen in the 800 real traces by eye.
TURN_INTO_NOISE = {"25-1", "45-5", "48-3"}  # and are cut at the limit on tokens
# `= 9 * 5/3 = 9 * 5/3 = ...` four to six times; "we bring down the next digit" over and over (72-2);
# the same four areas computed again (54-7); the same cases listed again (28-6).
LOOP = {"26-0", "26-1", "26-3", "26-4", "26-5", "79-0", "79-2", "79-3", "79-5"}
GO_ROUND = LOOP | {"72-2", "54-7", "28-6"}
HOLD_CODE = {"55-1", "55-3", "55-5", "55-6", "55-7"}
# The last step gives 13% and 50 degrees, the box says 20 and 40.
CONTRADICT_THEMSELVES = {"54-7", "84-6"}

BOX = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")


class Trace(NamedTuple):
    """A real text: its name, its whole, its chain, and the last paragraph as the answer."""

    name: str
    text: str
    chain: str
    answer: str
    right: bool
    final: str


class Data(NamedTuple):
    """The real texts by where they come from."""

    traces: list[Trace]
    math: list[Trace]
    gsm8k: list[Trace]
    code: list[str]


def read(folder):
    """The data of a folder; KeyError and OSError where it is not what its README says."""

    def rows(name):
        with (gzip.open if name.endswith(".gz") else open)(
            folder / name, "rt", encoding="utf-8"
        ) as f:
            return [json.loads(line) for line in f if line.strip()]

    traces = [
        trace(f"{row['idx']}-{k}", row["code"][k], row["score"][k], row["pred"][k])
        for row in rows("math-cot-100.jsonl")
        for k in range(8)
    ]
    math = [
        trace(f"MATH-{i}", row["solution"], True, row["answer"])
        for i, row in enumerate(rows("math500.jsonl"))
    ]
    gsm8k = [
        trace(f"GSM8K-{part}-{i}", row["answer"], True, row["answer"].rpartition("####")[2].strip())
        for part in ("train", "test")
        for i, row in enumerate(rows(f"gsm8k-{part}.jsonl"))
    ]
    code = [row["prompt"] + row["canonical_solution"] for row in rows("humaneval.jsonl.gz")]
    return Data(traces, math, gsm8k, code)


def trace(name, text, right, final):
    chain, _, answer = text.strip().rpartition("\n\n")
    if "\\boxed" not in answer:
        chain, answer = text, ""
    return Trace(name, text, chain or text, answer or text, bool(right), final)


def record(answer, reasoning=None, name="r", source="s"):
    return Record(name, Task(name.split("-")[0], "", source=source), [], reasoning, answer)


# --- think_format ----------------------------------------------------------------------------------


def marked(one, rng, defect=""):
    """A trace as a model of some dialect writes it, with a defect, and as it is read."""
    tags = rng.choice(DIALECTS)
    other = rng.choice([tags, rng.choice(DIALECTS)])
    chain, answer = one.chain, one.answer
    place = rng.randrange(1, len(answer))
    if defect == "stray closing tag":
        answer = answer[:place] + other.close + answer[place:]
    elif defect == "second block":
        answer = f"{other.open}Let me check.{other.close} {answer}"
    elif defect == "unclosed second block":
        answer = f"{answer}\n{other.open}Let me check."
    elif defect == "nested block":
        chain = f"{chain[:place]} {tags.open} {chain[place:]}"
    elif defect == "never closed":
        return record(*reversed(split_trace(f"{tags.open}\n{chain}")))
    elif defect == "no thinking":
        return record(answer)
    elif defect == "no box":
        answer = BOX.sub(r"\1", answer)
    opened = "" if not defect and rng.random() < 0.3 else f"{tags.open}\n"
    reasoning, rest = split_trace(f"{opened}{chain}\n{tags.close}\n\n{answer}")
    return record(rest, reasoning)


# --- repetition ------------------------------------------------------------------------------------

AGAIN = (
    "Wait, let me check this again.", "Hmm, let me double-check that.", "But wait, is that right?",
    "Let me verify once more.", "Actually, let me reconsider.", "Hold on, I should recompute.",
    "Let me go over it again from the start.", "Alternatively, we can look at it this way.",
)  # fmt: skip
SO = ("So the answer is {}.", "Thus, I get {} again.", "So {} it is.", "That gives {} once more.")
OTHER = {
    "we": "I", "have": "get", "is": "equals", "the": "this", "which": "that", "can": "may",
    "find": "compute", "Therefore": "So", "need": "want", "So": "Thus", "by": "using",
    "first": "to begin", "number": "count", "value": "amount", "gives": "yields", "now": "here",
}  # fmt: skip


def sentences(text):
    return [s.strip() for s in re.split(r"(?<=[.!?])\s+|\n+", text) if len(s.split()) >= 4]


def loop(one, rng, kind):
    """The chain of a trace that begins to go round; None where it has too little to say."""
    said = sentences(one.chain)
    if len(said) < 3:
        return None
    start = rng.randrange(len(said) - 2)
    core = said[start : start + rng.randint(1, 3)]
    cut = rng.randint(1, 30)
    if kind == "word for word":
        times = max(4, 200 // len(" ".join(core).split()))
        return f"{one.chain}\n\n{' '.join(core * times)}"[:-cut]
    if kind == "in the middle":
        times = max(4, 120 // len(" ".join(core).split()))
        return f"{' '.join(said[:start])} {' '.join(core * times)} {' '.join(said[start:])}"
    if kind == "three times over":
        return "\n\n".join([one.chain] * 3)
    if kind == "counting":
        step = f"Let me try n = 7. {core[0]} This does not work for n = 7."
        steps = (re.sub(r"\b7\b", str(k), step) for k in range(2, rng.randint(20, 60)))
        return f"{one.chain}\n\n{' '.join(steps)}"[:-cut]
    rounds = int(kind.split()[0])
    core = said[start : start + rng.randint(3, 6)]
    for _ in range(rounds):
        again = [
            " ".join(OTHER.get(w, w) if rng.random() < 0.5 else w for w in sentence.split())
            for sentence in core
            if rng.random() < 0.8
        ]
        one = one._replace(
            chain=f"{one.chain}\n\n{rng.choice(AGAIN)} {' '.join(again)} "
            + rng.choice(SO).format(one.final)
        )
    return one.chain[:-cut]


# --- contradiction ---------------------------------------------------------------------------------


def answered(one, rng, swapped, how):
    """A trace whose chain states its answer, and whose final answer is that or another."""
    final = one.final if not swapped else other_answer(one.final, rng)
    if how == "boxes":
        return record(f"The answer is $\\boxed{{{final}}}$.", one.text)
    if how == "in words":
        chain = BOX.sub(lambda box: box[1], one.chain)
        said = rng.choice(("the answer is ${}$.", "the final answer is **{}**", "答案是 ${}$。"))
        return record(f"$\\boxed{{{final}}}$", f"{chain}\n\nSo {said.format(one.final)}")
    written = one.final.replace("\\frac", "\\dfrac").replace(" ", "") if not swapped else final
    return record(f"**Answer:** \\(\\boxed{{{written}}}\\)", one.text)


def other_answer(final, rng):
    """Another answer of the same form."""
    digits = [place for place, c in enumerate(final) if c.isdigit()]
    if not digits:
        return "17" if final != "17" else "18"
    place = rng.choice(digits)
    digit = rng.choice([d for d in "123456789" if d != final[place]])
    return final[:place] + digit + final[place + 1 :]


# --- boilerplate -----------------------------------------------------------------------------------

# What the filter's table was made with.
KNOWN = (
    "Sure! Let's work through this.", "Certainly! Here's how to solve it:", "Great question!",
    "Of course! Below is the solution.", "I'd be glad to help with that.", "Sure thing, let's go.",
    "Absolutely! We can do this in a few steps.", "Here's a step-by-step solution to the problem:",
    "Thank you for your question.", "No problem! Let's see.", "Got it, let's dive right in!",
    "Okay! Happy to walk you through it.", "当然！让我们来解这道题。", "好的，下面是解答。",
    "I hope this helps!", "Let me know if you have any other questions.", "Hope that makes sense!",
    "Feel free to ask if anything is unclear.", "I hope this explanation is helpful.",
    "If you need more help, just ask!", "Please let me know if you'd like more detail.",
    "Don't hesitate to reach out with further questions.", "Happy studying!", "You're welcome!",
    "Is there anything else you would like to know?", "Would you like me to explain any step?",
    "Good luck with your homework!", "Have a great day!", "Does that answer your question?",
    "希望这对你有帮助！", "如果还有其他问题，请随时告诉我。", "祝你学习进步！",
)  # fmt: skip
# Written after it, and the table was not changed for them.
NEW_BEFORE = (
    "Sure, I can help you with this one.", "Hello! I'd love to help you solve this.",
    "Certainly. The solution follows.", "Alright, here's my solution.", "What a fun problem!",
    "I understand you want to find the value.", "Here is the complete solution:",
    "Of course, let me show you.", "Happy to help!", "Thanks for the question!",
    "Let's get started.", "Good question!", "好的！我们一步一步来。", "很高兴为你解答这个问题。",
)  # fmt: skip
NEW_AFTER = (
    "I hope this clarifies the problem for you.", "If anything is unclear, just say so.",
    "Let me know if you'd like to see another example!", "I trust this answers your question.",
    "Feel free to share more problems.", "Best of luck with your exam!", "Hope this helps 😊",
    "Do you have any other questions?", "I'm happy to explain any of these steps further.",
    "Please tell me if you need another approach.", "Happy to clarify any step!",
    "You can ask me about any of the steps.", "Thanks, and have a nice day!", "Enjoy!",
    "希望以上解答对您有所帮助。", "如果有不明白的地方，欢迎继续提问。", "还有什么问题吗？",
)  # fmt: skip


def with_manners(one, phrase):
    before = phrase in KNOWN[:14] or phrase in NEW_BEFORE
    return record(f"{phrase}\n\n{one.text}" if before else f"{one.text}\n\n{phrase}")

"""Recall and false alarms of `overlap` and `decontaminate`, beside the plain 8- and 13-gram rules.

    .venv/bin/python bench/accuracy/decontamination.py [--data FOLDER]

Each question of the GSM8K test set and of MATH-500 is planted with light edits, one kind at a time,
as a training question and in the middle of a real trace of another question. False alarms are
counted on the GSM8K training questions, on each MATH-500 question against the others, on each
question of CMATH (Chinese) against the others, and on real traces. Every alarm is listed.
"""

import argparse
import json
import random
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from filters import decontaminate, overlap  # noqa: E402
from filters._decontamination.eval_sets import Item  # noqa: E402
from filters._decontamination.index import SHORTEST_IN_TRACE, Index, tokens_of  # noqa: E402
from filters.base import Context, decide  # noqa: E402
from synth.core.record import Record, Task  # noqa: E402
from synth.core.text.question_text import normalise_question  # noqa: E402

MATH = re.compile(r"\$[^$]+\$")
SENTENCES = (
    "Read the following problem carefully and think before you answer.",
    "Here is a question from a worksheet that my teacher gave us last week.",
    "Explain every step, and state the final result on a line of its own.",
    "Please answer in one sentence; no calculator is allowed.",
)


# --- light edits: the same question, set otherwise -------------------------------------------------


def spacing(text, rng):
    return re.sub(" ", lambda _: rng.choice((" ", "  ", "\n", "\t")), text)


def case(text, rng):
    words = MATH.split(text)
    changed = rng.choice((str.upper, str.lower, str.title))
    maths = [*MATH.findall(text), ""]
    return "".join(changed(w) + m for w, m in zip(words, maths, strict=True))


def punctuation(text, rng):
    text = re.sub(r"(?<=[a-z])[,;:](?= )", rng.choice(("", " -", ";")), text)
    return re.sub(r"[.?!]+(?=\s|$)", rng.choice((" .", "!", "", "?!")), text).replace("'", "’")


def fraction(text, rng):
    form = rng.choice((r"\dfrac{%s}{%s}", r"\tfrac{%s}{%s}", " %s/%s", r"\frac {%s} {%s}"))
    return re.sub(r"\\d?frac\{([^{}]+)\}\{([^{}]+)\}", lambda m: form % m.groups(), text)


def delimiters(text, rng):
    left, right = rng.choice(((r"\(", r"\)"), ("", ""), ("$$", "$$"), (r"\[", r"\]")))
    return re.sub(r"(?<!\\)\$([^$]+)\$", lambda m: f"{left}{m[1]}{right}", text)


def latex(text, rng):
    for one, other in (
        (r"\\leq?(?![a-z])", "≤"),
        (r"\\cdot(?![a-z])", r"\\times"),
        (r"\\left\(", "("),
        (r"\\right\)", ")"),
        (r"\\(pi|theta|alpha|omega|lambda|phi)(?![a-z])", lambda m: GREEK[m[1]]),
        (r"\^\\circ", "°"),
        (r"\\sqrt\{(\d+)\}", r"√\1"),
        (r"\^(\w)(?!\w)", r"^{\1}"),
        (r"=", r" = "),
    ):
        if rng.random() < 0.7:
            text = re.sub(one, other, text)
    return text


GREEK = {"pi": "π", "theta": "θ", "alpha": "α", "omega": "ω", "lambda": "λ", "phi": "φ"}


def numbers(text, rng):
    def other(match):
        digits = match[0].replace(",", "")
        grouped = f"{int(digits):,}" if not digits.startswith("0") else digits
        return rng.choice((digits, grouped, grouped.replace(",", "{,}"), f"{digits}.0"))

    return re.sub(
        r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\w.,]\d)|(?<![\w.,])\d+(?![\w.,])", other, text
    )


def sentence_before(text, rng):
    return f"{rng.choice(SENTENCES)} {text}"


def sentence_after(text, rng):
    return f"{text} {rng.choice(SENTENCES)}"


def full_width(text, rng):
    return "".join(chr(ord(c) + 0xFEE0) if c.isalnum() and "!" <= c <= "~" else c for c in text)


LIGHT = (spacing, case, punctuation, numbers, sentence_before, sentence_after, full_width)
LATEX = (fraction, delimiters, latex)


def all_at_once(text, rng):
    chosen = (spacing, punctuation, numbers, *(LATEX if "\\" in text else ()))
    for edit in rng.sample(chosen, len(chosen)):
        text = edit(text, rng)
    return sentence_before(sentence_after(case(text, rng), rng), rng)


# --- beyond light edits: not in the goal, shown for what it is -------------------------------------


def words_replaced(share):
    def edit(text, rng):
        return " ".join(
            "thing" if w.isalpha() and rng.random() < share else w for w in text.split()
        )

    edit.__name__ = f"{share:.0%} of words replaced"
    return edit


def sentences_shuffled(text, rng):
    parts = re.split(r"(?<=[.?!])\s+", text)
    return " ".join(rng.sample(parts, len(parts)))


HEAVY = (sentences_shuffled, words_replaced(0.1), words_replaced(0.2))


# --- the rules --------------------------------------------------------------------------------------


def plain(text):
    return text.casefold().split()


class Ngrams:
    """One shared run of n words is an overlap: Brown et al. 2020 (13), s1 and Open-R1 (8)."""

    def __init__(self, n, words, questions):
        self.n, self.words = n, words
        self.known = {gram for question in questions for gram in self.grams(question)}

    def grams(self, text):
        words = self.words(text)
        return (tuple(words[i : i + self.n]) for i in range(len(words) - self.n + 1))

    def __call__(self, text):
        return any(gram in self.known for gram in self.grams(text))


def ours(questions):
    tasks = [Task(str(i), q) for i, q in enumerate(questions)]
    config = overlap.Config()
    check = overlap.build(config, Context(eval_tasks=tasks))

    def rule(text):
        figures = check(Record("r", Task("t", text), [], None, ""))
        return None if decide(figures, config).keep else figures

    return rule


def rules(questions):
    return {
        "overlap": ours(questions),
        "8-gram": Ngrams(8, plain, questions),
        "13-gram": Ngrams(13, plain, questions),
        "8-gram, normalised": Ngrams(8, normalise_question, questions),
        "13-gram, normalised": Ngrams(13, normalise_question, questions),
    }


# --- the tables -------------------------------------------------------------------------------------


def row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |")


def planted(title, questions, light, found):
    print(f"\n{title}: share of planted questions found\n")
    row("edit", "planted", *found)
    row(*["---"] * (2 + len(found)))
    missed, total, light_found = [], 0, 0
    for edit in (*light, all_at_once, *HEAVY):
        rng = random.Random(edit.__name__)
        texts = [(q, edit(q, rng)) for q in questions]
        texts = [(q, t) for q, t in texts if t != q]
        if not texts:
            continue
        hits = {name: [bool(rule(t)) for _, t in texts] for name, rule in found.items()}
        row(
            edit.__name__.replace("_", " "),
            len(texts),
            *(f"{sum(h) / len(h):.3f}" for h in hits.values()),
        )
        if edit not in HEAVY:
            total += len(texts)
            light_found += sum(hits["overlap"])
            missed += [
                (edit.__name__, q, t)
                for (q, t), h in zip(texts, hits["overlap"], strict=True)
                if not h
            ]
    print(
        f"\noverlap over all light edits: {light_found}/{total} = {light_found / total:.4f}; missed:"
    )
    for name, question, text in missed:
        print(f"  {name}: {question!r}\n    as {text!r}")
    if not missed:
        print("  none")


def alarms(title, texts, found, same):
    print(
        f"\n{title}: {len(texts)} questions, {len(same)} of them the same text as an evaluation question\n"
    )
    row("rule", "alarms", "false", "share")
    row("---", "---", "---", "---")
    for name, rule in found.items():
        hit = {i for i, text in enumerate(texts) if rule(text)}
        row(name, len(hit), len(hit - same), f"{len(hit - same) / len(texts):.4%}")
    print("\nalarms of overlap:")
    hits = [(i, figures) for i, text in enumerate(texts) if (figures := found["overlap"](text))]
    for i, figures in hits:
        print(
            f"  {'the same text: ' if i in same else ''}{texts[i]!r}\n    {dict(figures.evidence)}, {figures.values['overlap']:.2f}"
        )
    if not hits:
        print("  none")


def among_themselves(title, questions):
    """Each question against all others: no two are the same, so every alarm is looked at."""
    items = [Item("set", str(i), i, q) for i, q in enumerate(questions)]
    print(f"\n{title}: each of {len(questions)} questions against the others\n")
    alarms = 0
    for i, question in enumerate(questions):
        index = Index([item for item in items if item.row != i])
        tokens = tokens_of(question)
        hit = index.same(tokens) or index.within(tokens)
        if hit is not None and hit.overlap > overlap.Config().overlap_max:
            alarms += 1
            print(f"  {question!r}\n    {hit.overlap:.2f} {hit.how}: {hit.item.question!r}")
    print(f"\n{alarms} alarms ({alarms / len(questions):.2%})")


def small_sets(train, test, math):
    """Words weigh by their rarity in the evaluation sets; what where these are a few questions?"""
    rng = random.Random(0)
    train, each = [tokens_of(q) for q in train], [tokens_of(q) for q in math]
    print("\nSmall evaluation sets, drawn anew each time: false alarms\n")
    row("questions in the set", "GSM8K test on GSM8K train", "MATH-500 on the rest of it")
    row("---", "---", "---")
    for size, times in ((1, 30), (5, 20), (30, 10)):
        cells = []
        for questions, texts in ((test, train), (math, each)):
            alarms = checked = 0
            for _ in range(times):
                chosen = rng.sample(range(len(questions)), size)
                index = Index([Item("set", str(i), i, questions[i]) for i in chosen])
                for i, tokens in enumerate(texts):
                    if texts is each and i in chosen:
                        continue
                    checked += 1
                    hit = index.same(tokens) or index.within(tokens)
                    alarms += hit is not None and hit.overlap > overlap.Config().overlap_max
            cells.append(f"{alarms} of {checked:,}")
        row(size, *cells)


def in_traces(questions, rows):
    tasks = [Task(str(i), q) for i, q in enumerate(questions)]
    config = decontaminate.Config()
    check = decontaminate.build(config, Context(eval_tasks=tasks))

    def found(reasoning):
        figures = check(Record("r", Task("t", ""), [], reasoning, ""))
        return None if decide(figures, config).keep else figures

    known = {tuple(tokens_of(q)) for q in questions}
    clean = [r for r in rows if tuple(tokens_of(r["question"])) not in known]
    traces = [text for r in clean for text in r["code"]]
    grams = {n: Ngrams(n, plain, questions) for n in (8, 13)}
    print(
        f"\nTraces: {len(traces)} real ones, of {len(clean)} questions that are in no evaluation set\n"
    )
    row("rule", "alarms", "found of the planted, edited lightly")
    row("---", "---", "---")
    rng = random.Random(0)
    plants = []
    for question in questions:
        if len(tokens_of(question)) < SHORTEST_IN_TRACE:
            continue
        words = rng.choice(traces).split(" ")
        place = rng.randrange(len(words))
        edited = all_at_once(question, rng)
        plants.append(" ".join([*words[:place], edited, *words[place:]]))
    for name, rule in {"decontaminate": found, "8-gram": grams[8], "13-gram": grams[13]}.items():
        hits = sum(bool(rule(text)) for text in traces)
        recall = sum(bool(rule(text)) for text in plants)
        row(name, hits, f"{recall}/{len(plants)} = {recall / len(plants):.4f}")
    print("\nalarms of decontaminate:")
    for text in traces:
        if figures := found(text):
            print(f"  {dict(figures.evidence)}, {figures.values['overlap']:.2f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    data = parser.parse_args().data

    def read(name, column=None):
        path = data / name
        if not path.exists():
            print(f"{path} is not here; give its folder with --data", file=sys.stderr)
            raise SystemExit(2)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        return rows if column is None else [r[column] for r in rows]

    test, train = read("gsm8k-test.jsonl", "question"), read("gsm8k-train.jsonl", "question")
    math = read("math500.jsonl", "problem")
    of_test = rules(test)
    planted("GSM8K test", test, LIGHT, of_test)
    planted("MATH-500", math, (*LIGHT, *LATEX), rules(math))
    texts = {" ".join(q.split()) for q in test}
    same = {i for i, q in enumerate(train) if " ".join(q.split()) in texts}
    alarms("GSM8K train against GSM8K test", train, of_test, same)
    among_themselves("MATH-500", math)
    among_themselves("CMATH", list(dict.fromkeys(read("cmath-test.jsonl", "question"))))
    small_sets(train, test, math)
    in_traces(test + math, read("math-cot-100.jsonl"))


if __name__ == "__main__":
    main()

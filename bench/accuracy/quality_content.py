"""Precision, recall and speed of the filters that look at what a trace says.

    .venv/bin/python bench/accuracy/quality_content.py [--data FOLDER] [--shown N] [--speed] [--student]

Positives are planted in real traces: sentences and words of other languages, refusals, and made-up
personal data and keys with valid check digits. Negatives are the untouched traces (800 of a
mathematics model), MATH and GSM8K solutions, CMATH questions (Chinese) and HumanEval programs, and
sentences that only look alike (`_content_samples.py`). Intervals are Wilson's, 95%. `--speed`
prints the time over a trace of 2,000 words instead; `--student` what SmolLM2-135M makes of 100
GSM8K solutions under their own questions and under others.
"""

import argparse
import base64
import gzip
import json
import random
import re
import statistics
import string
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "bench" / "accuracy")]

import _content_samples as samples  # noqa: E402
from common import GGUF, table  # noqa: E402

from filters import language, perplexity, refusal, secrets  # noqa: E402
from filters._text.languages import LANGUAGES  # noqa: E402
from filters.base import Context, decide  # noqa: E402
from sft.evaluation.statistics import wilson  # noqa: E402
from synth.core.record import Record, Task  # noqa: E402

SEED = 11
# Traces of the mathematics model that turn into noise of many scripts, found by eye.
NOISE = {"trace-25-1", "trace-45-5", "trace-48-3"}


def check_of(module):
    config = module.Config()
    check = module.build(config, Context())
    if not module.Config.measures:
        return check
    return lambda record: decide(check(record), config)


def share(count, total):
    low, high = wilson(count, total)
    return f"{count / total:.4f} ({low:.4f} to {high:.4f})"


class Report:
    """The rows of one filter's table, and what it got wrong."""

    def __init__(self, title, check, shown):
        self.title, self.check, self.shown = title, check, shown
        self.rows, self.wrong = [], []

    def add(self, kind, records, positive):
        """Judges records that all are positives, or all negatives: (name, record)."""
        verdicts = [(name, self.check(record)) for name, record in records]
        said = sum(verdict.keep is False for _, verdict in verdicts)
        label = "positive" if positive else "negative"
        self.rows.append((kind, label, len(verdicts), said, share(said, len(verdicts))))
        wrong = [(n, v.reason) for n, v in verdicts if (v.keep is False) != positive]
        self.wrong += [(kind, *one) for one in list(dict.fromkeys(wrong))[: self.shown]]

    def print(self):
        print(f"## {self.title}\n")
        table(["sample", "label", "records", "no", "share of no (95%)"], self.rows)
        positives = sum(row[2] for row in self.rows if row[1] == "positive")
        found = sum(row[3] for row in self.rows if row[1] == "positive")
        said = sum(row[3] for row in self.rows)
        print(f"precision {share(found, said)}, recall {share(found, positives)}\n")
        for kind, name, reason in self.wrong:
            print(f"- {kind}, {name}: {reason or 'kept'}")
        print()


class Data:
    """The real texts: (name, question, text)."""

    def __init__(self, folder):
        def rows(name):
            opened = gzip.open if name.endswith(".gz") else open
            with opened(folder / name, "rt", encoding="utf-8") as lines:
                return [json.loads(line) for line in lines if line.strip()]

        self.traces = [
            (f"trace-{row['idx']}-{i}", row["question"], text)
            for row in rows("math-cot-100.jsonl")
            for i, text in enumerate(row["code"])
        ]
        self.math = [
            (f"MATH-{i}", row["problem"], row["solution"])
            for i, row in enumerate(rows("math500.jsonl"))
        ]
        self.gsm = [
            (f"GSM8K-{i}", row["question"], row["answer"])
            for i, row in enumerate(rows("gsm8k-test.jsonl") + rows("gsm8k-train.jsonl"))
        ]
        self.cmath = [row["question"] for row in rows("cmath-test.jsonl")]
        self.code = [
            (f"HumanEval-{i}", row["prompt"], row["prompt"] + row["canonical_solution"])
            for i, row in enumerate(rows("humaneval.jsonl.gz"))
        ]

    def chinese(self, rng):
        """A text of Chinese sentences, its first one being the question."""
        chosen = rng.sample(self.cmath, 5)
        return chosen[0], "".join(chosen)


def trace(question, reasoning, answer=""):
    return Record("r", Task("t", question), [], reasoning, answer)


def planted(text, piece, rng):
    """A text with a piece at the end of one of its sentences that stands in no formula."""
    ends = [m.end() for m in re.finditer(r"[.!?。？](?=\s|$)|(?<=[。？])|\n", text)]
    ends = [e for e in ends if text[:e].count("$") % 2 == 0 and _outside(text[:e])] or [len(text)]
    place = rng.choice(ends)
    return f"{text[:place]} {piece} {text[place:]}"


def _outside(head):
    pairs = ((r"\[", r"\]"), (r"\(", r"\)"), (r"\begin", r"\end"), ("[asy]", "[/asy]"))
    return head.count("```") % 2 == 0 and all(head.count(a) == head.count(b) for a, b in pairs)


def untouched(report, data, make, but=frozenset()):
    for title, texts in (
        ("traces", data.traces), ("MATH", data.math), ("GSM8K", data.gsm), ("HumanEval", data.code),
    ):  # fmt: skip
        records = ((n, make(question, text)) for n, question, text in texts if n not in but)
        report.add(f"untouched: {title}", records, False)
    records = ((text[:20], make(text, text)) for text in data.cmath)
    report.add("untouched: CMATH", records, False)


def language_report(data, rng, shown):
    report = Report("language", check_of(language), shown)
    sound = [one for one in data.traces + data.gsm[:1319] if one[0] not in NOISE]

    def with_piece(piece, chosen=sound):
        _, question, text = rng.choice(chosen)
        return piece, trace(question, planted(text, piece, rng))

    for code, pieces in samples.FOREIGN.items():
        title = "by script" if LANGUAGES[code] != {"Latin"} else "by the identifier"
        records = (with_piece(piece) for piece in pieces for _ in range(60 // len(pieces)))
        report.add(f"a sentence of {code} ({title})", records, True)
    records = (with_piece(rng.choice(data.cmath)) for _ in range(300))
    report.add("a CMATH sentence in English", records, True)
    records = []
    for piece in samples.SWITCHES * 30:
        _, question, text = rng.choice(sound)
        words = [m.start() for m in re.finditer(r"(?<=[a-z]) (?=[a-z])", text)]
        words = [w for w in words if _outside(text[:w]) and text[:w].count("$") % 2 == 0]
        place = rng.choice(words or [0])
        records.append((piece, trace(question, f"{text[:place]} {piece}{text[place:]}")))
    report.add("a word of another script within a line", records, True)
    records = []
    for _ in range(300):
        question, text = data.chinese(rng)
        sentences = re.split(r"(?<=[.!?])\s+", re.sub("<<.*?>>", "", rng.choice(data.gsm)[2]))
        piece = max(sentences[0].split("\n"), key=len)
        records.append((piece, trace(question, planted(text, piece, rng))))
    report.add("a GSM8K sentence in Chinese", records, True)
    records = ((n, trace(q, "".join(rng.sample(data.cmath, 4)))) for n, q, _ in sound[:300])
    report.add("a Chinese chain to an English question", records, True)
    records = ((n, trace(rng.choice(data.cmath), text)) for n, _, text in sound[:300])
    report.add("an English chain to a Chinese question", records, True)
    report.add("real ones", ((n, trace(q, text)) for n, q, text in data.traces if n in NOISE), True)
    untouched(report, data, trace, NOISE)
    passing = [with_piece(piece) for piece in samples.ENGLISH_THAT_PASSES for _ in range(20)]
    report.add("names, loans and symbols in English", passing, False)
    records = []
    for piece in samples.CHINESE_THAT_PASSES * 20:
        question, text = data.chinese(rng)
        records.append((piece, trace(question, planted(text, piece, rng))))
    report.add("variables, names and units in Chinese", records, False)
    return report


def refusal_report(data, rng, shown):
    report = Report("refusal", check_of(refusal), shown)

    def answer(question, text):
        return trace(question, "", text)

    report.add("refusals by themselves", ((s, answer("q", s)) for s in samples.REFUSALS), True)
    records = [
        (piece, answer(question, planted(text, piece, rng)))
        for piece in samples.REFUSALS
        for _, question, text in rng.sample(data.traces, 5)
    ]
    report.add("refusals within an answer", records, True)
    report.add("a second lot", ((s, answer("q", s)) for s in samples.SECOND_REFUSALS), True)
    records = ((s, answer("q", s)) for s in samples.LATER_REFUSALS)
    report.add("held out: written when all was done", records, True)
    records = ((s, answer("q", s)) for s in samples.LATER_NO_REFUSALS)
    report.add("held out: what only looks like one", records, False)
    records = ((s, answer("q", s)) for s in samples.NO_REFUSALS)
    report.add("what only looks like one", records, False)
    untouched(report, data, answer)
    return report


def secrets_report(data, rng, shown):
    report = Report("secrets", check_of(secrets), shown)
    sound = data.traces + data.gsm[:1319]
    for kind, make in MADE_UP.items():
        records = []
        for _ in range(100):
            _, question, text = rng.choice(sound)
            piece = make(rng)
            records.append((piece, trace(question, planted(text, f"It is {piece}.", rng))))
        report.add(kind, records, True)
    untouched(report, data, trace)
    untouched_questions = ((n, trace(q, q)) for n, q, _ in data.math + data.gsm)
    report.add("untouched: questions of MATH and GSM8K", untouched_questions, False)
    return report


# --- made-up personal data and keys; the check digits are reckoned here, not by the filter


def _signs(rng, count, alphabet=string.ascii_letters + string.digits):
    return "".join(rng.choice(alphabet) for _ in range(count))


def _number(rng, count):
    return rng.choice("123456789") + _signs(rng, count - 1, string.digits)


def _email(rng):
    names = ["li.wei", "j_smith", "Anna-Lena", "o.petrov99", "maria+lists", "k", "dev.team"]
    domains = ["gmail.com", "uni-koeln.de", "mail.tsinghua.edu.cn", "acme.co.uk", "x1.io"]
    return f"{rng.choice(names)}@{rng.choice(domains)}"


def _phone(rng):
    forms = ["+1 212-###-####", "+49 171 #######", "+33 6 ## ## ## ##", "+8613#########",
             "(646) 2##-####", "312-5##-####", "+44 20 7### ####", "+7 (495) ###-##-##"]  # fmt: skip
    return re.sub("#", lambda _: rng.choice("2345678"), rng.choice(forms))


def _phone_after_a_word(rng):
    forms = ["phone: 030 #######", "电话：139########", "Tel. 0171 #######", "mobile 415 555 ####"]
    return re.sub("#", lambda _: rng.choice("2345678"), rng.choice(forms))


def _iban(rng):
    country, body = rng.choice(
        [("DE", _number(rng, 18)), ("FR", _number(rng, 23)), ("ES", _number(rng, 20)),
         ("GB", "NWBK" + _number(rng, 14)), ("NL", "ABNA" + _number(rng, 10))]
    )  # fmt: skip
    check = 98 - int("".join(str(int(c, 36)) for c in f"{body}{country}00")) % 97
    whole = f"{country}{check:02}{body}"
    spaced = " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))
    return rng.choice([whole, spaced])


def _card_number(rng):
    body = rng.choice(["4", "51", "55", "2221", "6011", "62"])
    body += _signs(rng, 15 - len(body), string.digits)
    total = 0
    for place, digit in enumerate(map(int, body[::-1])):
        total += digit if place % 2 else (2 * digit - 9 if digit > 4 else 2 * digit)
    return body + str(-total % 10)


def _card(rng):
    number = _card_number(rng)
    return rng.choice(" -").join(number[i : i + 4] for i in range(0, 16, 4))


def _ssn(rng):
    return f"{rng.randint(1, 665):03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}"


def _cn_id(rng):
    place = rng.choice(["110105", "310104", "440305", "510107"])
    born = f"{rng.randint(1940, 2015)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
    body = place + born + _signs(rng, 3, string.digits)
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(d) * w for d, w in zip(body, weights, strict=True))
    return body + "10X98765432"[total % 11]


def _ip(rng):
    first = rng.choice([23, 52, 93, 104, 151, 185, 203])
    return f"{first}.{rng.randint(114, 250)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"


def _key(rng):
    part = base64.urlsafe_b64encode(_signs(rng, 30).encode()).decode().strip("=")
    return rng.choice(
        ["AKIA" + _signs(rng, 16, string.ascii_uppercase + "234567"), "ghp_" + _signs(rng, 36),
         "github_pat_" + _signs(rng, 22) + "_" + _signs(rng, 59), "sk-" + _signs(rng, 48),
         "sk-proj-" + _signs(rng, 120), "sk-ant-api03-" + _signs(rng, 93) + "AA",
         "xoxb-" + _number(rng, 12) + "-" + _number(rng, 13) + "-" + _signs(rng, 24),
         "AIza" + _signs(rng, 35), "sk_live_" + _signs(rng, 24), "hf_" + _signs(rng, 34),
         f"eyJhbGciOiJIUzI1NiJ9.eyJ{part}.{_signs(rng, 43)}",
         f"-----BEGIN PRIVATE KEY-----\n{_signs(rng, 64)}\n-----END PRIVATE KEY-----"]
    )  # fmt: skip


MADE_UP = {
    "an e-mail address": _email,
    "a phone number": _phone,
    "a phone number after a word": _phone_after_a_word,
    "an IBAN": _iban,
    "a card number in groups": _card,
    "a bare card number after a word": lambda rng: f"my card {_card_number(rng)}",
    "a bare card number": _card_number,
    "a US social security number": _ssn,
    "a Chinese citizen's number": _cn_id,
    "an IP address": _ip,
    "a key": _key,
    "a password in a URL": lambda rng: f"ftp://root:{_signs(rng, 10)}@files.corp:21/a",
}


def speed(data, rounds=7):
    """Microseconds a filter takes over a trace of 2,000 words: all in turn, medians of rounds."""
    texts, text = [], ""
    for name, _, one in data.traces:
        text += one + "\n\n" if name not in NOISE else ""
        if len(text.split()) >= 2000:
            texts.append(text)
            text = ""
    question = data.traces[0][1]
    modules = (language, refusal, secrets)
    checks = {m.__name__.rpartition(".")[2]: m.build(m.Config(), Context()) for m in modules}
    times = {name: [] for name in checks}
    for number in range(rounds + 1):  # the first warms up
        # A text is cut into prose once and remembered: each filter gets its own copies.
        copies = {name: [f"{text}{name}{number}" for text in texts] for name in checks}
        for name, check in checks.items():
            records = [trace(question, copy, copy) for copy in copies[name]]
            for record in records:
                if name == "refusal":
                    record.reasoning = ""
                else:
                    record.answer = ""
            start = time.perf_counter()
            for record in records:
                check(record)
            times[name].append(time.perf_counter() - start)
    rows = [(n, f"{statistics.median(t[1:]) / len(texts) * 1e6:.0f}") for n, t in times.items()]
    print(f"{len(texts)} traces of 2,000 words, {rounds} rounds in turn, medians\n")
    table(["filter", "microseconds a trace"], rows)


def student(data, rng):
    """How IFD and perplexity tell a solution under its own question from one under another."""
    from synth.core.models import load_model, load_tokenizer

    made = load_model(GGUF), load_tokenizer(GGUF)
    check = perplexity.build(perplexity.Config(), Context(student=lambda: made))
    chosen = rng.sample(data.gsm, 100)
    start, tokens, pairs = time.perf_counter(), 0, []
    for (_, question, text), (_, other, _) in zip(chosen, chosen[1:] + chosen[:1], strict=True):
        text = re.sub("<<.*?>>", "", text)
        own, stray = check(trace(question, None, text)), check(trace(other, None, text))
        tokens += 4 * own.evidence["tokens"]
        pairs.append((own.values, stray.values))
    seconds = time.perf_counter() - start
    rows = []
    for name in ("ifd", "perplexity"):
        owns, strays = ([pair[i][name] for pair in pairs] for i in (0, 1))
        better = sum(a < b for a, b in zip(owns, strays, strict=True))
        rows.append(
            (name, f"{statistics.median(owns):.3f}", f"{statistics.median(strays):.3f}",
             share(better, len(pairs)))
        )  # fmt: skip
        if name == "ifd":
            over = [sum(figure > 1 for figure in figures) for figures in (owns, strays)]
    print("100 GSM8K solutions under SmolLM2-135M-Instruct\n")
    table(["median", "own question", "another", "own is lower (95%)"], rows)
    print(f"IFD over 1: {over[0]} under their own question, {over[1]} under another")
    print(f"{tokens / seconds:.0f} tokens a second (each solution is passed through four times)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--shown", type=int, default=8, help="disagreements shown of each sample")
    parser.add_argument("--speed", action="store_true", help="print the speed instead")
    parser.add_argument("--student", action="store_true", help="print perplexity and IFD instead")
    options = parser.parse_args()
    try:
        data = Data(options.data)
    except OSError as error:
        print(f"the data is not here: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if options.speed:
        speed(data)
    elif options.student:
        student(data, random.Random(SEED))
    else:
        for number, make in enumerate((language_report, refusal_report, secrets_report)):
            make(data, random.Random(SEED + number), options.shown).print()


if __name__ == "__main__":
    main()

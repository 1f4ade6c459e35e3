"""Precision, recall and speed of the filters that look at the form of a trace.

    .venv/bin/python bench/accuracy/quality_form.py [--data FOLDER] [--shown N] [--speed]

Positives are known defects planted in real traces, and the real ones that were found by eye
(`_form_samples.py`); negatives are the untouched traces (800 of a mathematics model), 499 MATH
solutions and 8,792 GSM8K solutions by people. Thresholds were set on the first two, so that GSM8K
alone is held out. Intervals are Wilson's, 95%. `--speed` prints the time that each filter takes
over a trace of 2,000 words instead.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / "bench"))

import _form_samples as samples  # noqa: E402
from common import table  # noqa: E402

from filters import (  # noqa: E402
    boilerplate,
    chain_style,
    contradiction,
    length_outliers,
    repetition,
    think_format,
    truncated,
)
from filters.base import Context, decide  # noqa: E402
from sft.evaluation.statistics import wilson  # noqa: E402

SEED = 7


def check_of(module, **options):
    config = module.Config(**options)
    check = module.build(config, Context())
    if not module.Config.measures:
        return check
    return lambda record: decide(check(record), config)


def share(count, total):
    if not total:
        return "-"
    low, high = wilson(count, total)
    return f"{count / total:.3f} ({low:.3f} to {high:.3f})"


class Report:
    """The rows of one filter's table, and what it got wrong."""

    def __init__(self, title, check, shown):
        self.title, self.check, self.shown = title, check, shown
        self.rows, self.wrong = [], []
        self.true = self.false = 0

    def add(self, kind, records, positive):
        """Judges records that all are positives, or all negatives: (name, record)."""
        records = list(records)
        verdicts = [(name, self.check(record)) for name, record in records]
        said = sum(verdict.keep is False for _, verdict in verdicts)
        unsure = sum(verdict.keep is None for _, verdict in verdicts)
        if positive:
            self.true += said
        else:
            self.false += said
        rate = share(said, len(records))
        label = "positive" if positive else "negative"
        self.rows.append((kind, label, len(records), said, unsure, rate))
        wrong = [(n, v.reason) for n, v in verdicts if (v.keep is False) != positive]
        self.wrong += [(kind, *one) for one in list(dict.fromkeys(wrong))[: self.shown]]

    def print(self):
        print(f"## {self.title}\n")
        table(["sample", "label", "records", "no", "cannot tell", "share of no (95%)"], self.rows)
        precision = share(self.true, self.true + self.false)
        found = sum(row[3] for row in self.rows if row[1] == "positive")
        recall = share(found, sum(row[2] for row in self.rows if row[1] == "positive"))
        print(f"precision {precision}, recall {recall}\n")
        for kind, name, reason in self.wrong:
            print(f"- {kind}, {name}: {reason or 'kept'}")
        print()


def negatives(report, data, but, make):
    for title, traces in (("traces", data.traces), ("MATH", data.math), ("GSM8K", data.gsm8k)):
        records = ((one.name, make(one)) for one in traces if one.name not in but)
        report.add(f"untouched: {title}", records, False)


def think_format_report(data, rng, shown):
    report = Report("think_format", check_of(think_format, final_answer="boxed"), shown)
    traces = [one for one in data.traces if one.name not in samples.TURN_INTO_NOISE and one.answer]
    for defect in (
        "stray closing tag", "second block", "unclosed second block", "nested block",
        "never closed", "no thinking", "no box",
    ):  # fmt: skip
        some = rng.sample(traces, 300)
        report.add(defect, ((one.name, samples.marked(one, rng, defect)) for one in some), True)
    report.add(
        "untouched, in all dialects", ((o.name, samples.marked(o, rng)) for o in traces), False
    )
    return report


def truncated_report(data, rng, shown):
    report = Report("truncated (by text)", check_of(truncated), shown)
    whole = [one for one in data.traces if one.name not in samples.TURN_INTO_NOISE]

    def cut(one, least):
        place = rng.randrange(int(len(one.text) * least) + 1, len(one.text) - 2)
        return one.name, samples.record(one.text[:place].rstrip())

    def cut_in_thinking(one):
        place = rng.randrange(1, len(one.chain))
        reasoning, answer = samples.split_trace("<think>" + one.chain[:place])
        return one.name, samples.record(answer, reasoning)

    report.add("cut anywhere", (cut(one, 0) for one in whole), True)
    report.add("cut in the second half", (cut(one, 0.5) for one in whole), True)
    report.add("MATH, cut in the second half", (cut(one, 0.5) for one in data.math), True)
    report.add("cut while thinking", (cut_in_thinking(one) for one in whole), True)
    noise = [one for one in data.traces if one.name in samples.TURN_INTO_NOISE]
    report.add("real ones", ((one.name, samples.record(one.text)) for one in noise), True)
    negatives(report, data, samples.TURN_INTO_NOISE, lambda one: samples.record(one.text))
    code = ((f"HumanEval-{i}", samples.record(text)) for i, text in enumerate(data.code))
    report.add("code without fences", code, False)
    return report


def repetition_report(data, rng, shown):
    report = Report("repetition", check_of(repetition), shown)
    sound = [one for one in data.traces if one.name not in samples.GO_ROUND]
    sound = [one for one in sound if one.name not in samples.TURN_INTO_NOISE]
    for kind in (
        "word for word", "in the middle", "three times over", "counting",
        "6 rounds in other words", "12 rounds in other words", "24 rounds in other words",
    ):  # fmt: skip
        looped = ((one.name, samples.loop(one, rng, kind)) for one in rng.sample(sound, 300))
        records = ((name, samples.record("5", chain)) for name, chain in looped if chain)
        report.add(kind, records, True)
    real = [one for one in data.traces if one.name in samples.GO_ROUND]
    report.add("real ones", ((one.name, samples.record(one.text)) for one in real), True)
    but = samples.GO_ROUND | samples.TURN_INTO_NOISE
    negatives(report, data, but, lambda one: samples.record(one.text))
    return report


def chain_style_report(data, rng, shown):
    report = Report("chain_style", check_of(chain_style), shown)
    plain = [one for one in data.traces if one.name not in samples.HOLD_CODE]

    def with_code(one):
        lines = one.chain.splitlines(keepends=True)
        place = rng.randrange(len(lines) + 1)
        code = f"\n```python\n{rng.choice(data.code).rstrip()}\n```\n"
        return one.name, samples.record("5", "".join(lines[:place]) + code + "".join(lines[place:]))

    def wall(count):
        chosen = rng.sample(plain, count)
        text = " ".join(" ".join(one.chain.split()) for one in chosen)
        return chosen[0].name, samples.record("5", text)

    report.add("code pasted in", (with_code(one) for one in rng.sample(plain, 300)), True)
    for count in (1, 2, 4):
        report.add(
            f"{count} {'trace' if count == 1 else 'traces'} in one paragraph",
            (wall(count) for _ in range(300)),
            True,
        )
    real = [one for one in data.traces if one.name in samples.HOLD_CODE]
    report.add(
        "real ones with code", ((one.name, samples.record("5", one.text)) for one in real), True
    )
    negatives(report, data, samples.HOLD_CODE, lambda one: samples.record("5", one.text))
    return report


def contradiction_report(data, rng, shown):
    check = check_of(contradiction)
    report = Report("contradiction", check, shown)
    sound = [one for one in data.traces if one.right]
    for how in ("boxes", "in words", "written otherwise"):
        some = rng.sample(sound, 300)
        records = ((o.name, samples.answered(o, rng, True, how)) for o in some)
        report.add(f"another answer, {how}", records, True)
    for how in ("boxes", "in words", "written otherwise"):
        records = ((o.name, samples.answered(o, rng, False, how)) for o in sound)
        report.add(f"the same answer, {how}", records, False)
    pairs = [(a, b) for a, b in zip(data.traces, data.traces[1:], strict=False)]
    pairs = [(a, b) for a, b in pairs if a.name.split("-")[0] == b.name.split("-")[0]]
    for right, positive in (((True, True), False), ((True, False), True), ((False, True), True)):
        chosen = [(a, b) for a, b in pairs if (a.right, b.right) == right]
        records = ((f"{a.name} and {b.name}", samples.record(b.text, a.text)) for a, b in chosen)
        title = "one right, the other wrong" if positive else "both right"
        report.add(f"two traces of a question, {title}", records, positive)
    real = [one for one in data.traces if one.name in samples.CONTRADICT_THEMSELVES]
    records = ((one.name, samples.record(one.answer, one.chain)) for one in real)
    report.add("real ones (the last step against the box)", records, True)
    check.close()
    return report


def boilerplate_report(data, rng, shown):
    report = Report("boilerplate", check_of(boilerplate), shown)
    for title, phrases in (
        ("known phrases", samples.KNOWN),
        ("new phrases before the answer", samples.NEW_BEFORE),
        ("new phrases after the answer", samples.NEW_AFTER),
    ):
        cases = [(phrase, rng.choice(data.traces)) for phrase in phrases]
        records = ((phrase, samples.with_manners(one, phrase)) for phrase, one in cases)
        report.add(title, records, True)
    negatives(report, data, set(), lambda one: samples.record(one.text))
    return report


def length_outliers_report(data, rng, shown):
    records = [samples.record(one.text, name=one.name) for one in data.traces]
    sound = [one for one in data.traces if one.name not in samples.TURN_INTO_NOISE]
    for number, one in enumerate(rng.sample(sound, 20)):
        text = one.text * 8 if number % 2 else one.text[:100]
        records.append(samples.record(text, name=f"planted-{'long' if number % 2 else 'short'}"))
    judge = length_outliers.build(length_outliers.Config(), Context())
    verdicts = dict(zip(map(id, records), judge(lambda: iter(records)), strict=True))
    report = Report("length_outliers", lambda record: verdicts[id(record)], shown)
    for kind, names in (
        ("eight times as long", ("planted-long",)),
        ("the first 100 characters", ("planted-short",)),
        ("real ones, turned into noise", samples.TURN_INTO_NOISE),
    ):
        report.add(kind, ((r.id, r) for r in records if r.id in names), True)
    plain = {one.name for one in sound}
    report.add("untouched: traces", ((r.id, r) for r in records if r.id in plain), False)
    return report


REPORTS = (
    think_format_report, truncated_report, repetition_report, chain_style_report,
    contradiction_report, boilerplate_report, length_outliers_report,
)  # fmt: skip


def speed(data, rounds=7):
    """Microseconds a filter takes over a trace of 2,000 words: all in turn, medians of rounds."""
    texts, text = [], ""
    for one in data.traces:
        text += one.text + "\n\n"
        if len(text.split()) >= 2000:
            texts.append(text)
            text = ""
    records = [samples.record("\\boxed{5}", f"{text}\n\\boxed{{5}}", source="s") for text in texts]
    modules = (think_format, truncated, repetition, chain_style, contradiction, boilerplate)
    checks = {m.__name__.rpartition(".")[2]: m.build(m.Config(), Context()) for m in modules}
    answers = {"truncated": texts, "boilerplate": texts}  # these two read the answer
    judge = length_outliers.build(length_outliers.Config(), Context())
    times = {name: [] for name in ("length_outliers", *checks)}
    for _ in range(rounds):
        start = time.perf_counter()
        list(judge(lambda: iter(records)))
        times["length_outliers"].append(time.perf_counter() - start)
        for name, check in checks.items():
            mine = [samples.record(t) for t in answers[name]] if name in answers else records
            start = time.perf_counter()
            for record in mine:
                check(record)
            times[name].append(time.perf_counter() - start)
    checks["contradiction"].close()
    print(
        f"{len(texts)} traces of 2,000 words (blanks between), {rounds} rounds in turn, medians\n"
    )
    rows = [(n, f"{statistics.median(t) / len(texts) * 1e6:.0f}") for n, t in times.items()]
    table(["filter", "microseconds a trace"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--shown", type=int, default=5, help="disagreements shown of each sample")
    parser.add_argument("--speed", action="store_true", help="print the speed instead")
    options = parser.parse_args()
    try:
        data = samples.read(options.data)
    except OSError as error:
        print(f"the data is not here: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if options.speed:
        speed(data)
        return
    for number, make in enumerate(REPORTS):
        make(data, random.Random(SEED + number), options.shown).print()


if __name__ == "__main__":
    main()

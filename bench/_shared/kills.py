"""The campaign: all faults and many kills against the real command line, and the account of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from _shared.dialects import KINDS, WITHOUT_SEED
from _shared.faults import AGAIN, ANSWERS, FAULTS, FIRST_SEED, REFUSED, FaultServer, draw, text_of

from synth.config.validate import load_run
from synth.core.prompts import load_prompt
from synth.core.reasoning import parse_completion
from synth.core.record import Request, Task
from synth.stages.build_teachers import build_teachers
from synth.store.keys import request_key
from synth.store.responses import ResponseStore
from synth.store.usage import entries, failures

WINDOW, SAMPLES, RETRIES, TIMEOUT_S = 16, 2, 2, 1.5
QUESTIONS_A_KILL = 16  # so many that the work outlasts the kills
LATENCY_S = 0.05, 0.35  # of answers
# A share of the kills comes within the first seconds; the others after so many answers, and a
# little later.
EARLY_SHARE, EARLY_S, MOST_ANSWERS, LATER_S = 0.3, 1.5, 50, 0.3
LONGEST_RUN_S = 400  # nothing may hang
# Trouble with an endpoint (429, 5xx, no answer) makes the client ask more slowly: a little of it.
TROUBLE = ("429", "429, seconds", "429, date", "429, nonsense", "500", "502", "no answer",
           "endless drip", "cut before the headers", "cut in the headers", "cut in the body",
           "no HTTP", "long header", "bad gzip", "an error, status 200", "429 inside a 200",
           "broken off", "an error in the choice")  # fmt: skip
MALFORMED = tuple(fault for fault in AGAIN if fault not in TROUBLE)
SHARES = ((TROUBLE, 0.015), (MALFORMED, 0.1), (tuple(ANSWERS), 0.15))
# What the command line says when a teacher is out.
OUT_SAYS = ("does not accept the key", "knows no model", "is used up", "is moved to")
# One question in so many goes wrong for good, few of them early: they are asked again at every
# start, one at a time until there is an answer. The very last make trouble for good.
FOR_GOOD, FOR_GOOD_EVERY, EARLY = (*REFUSED, "empty choices", "invalid JSON"), 20, 30
TROUBLE_FOR_GOOD = ("500", "cut in the body")


def certain(questions):
    """Faults that come for certain, each at one question's last sample: all that there are."""
    kinds = [fault for fault in FAULTS if fault]
    return {(questions - len(TROUBLE_FOR_GOOD)) * n // len(kinds): f for n, f in enumerate(kinds)}


def plan(seed, questions, samples=SAMPLES):
    """Which fault a request meets, by the seed, its question, sample and attempt alone."""
    sure = certain(questions)

    def fault(ask):
        number = int(ask.question.split()[1])
        if (ask.sample, ask.attempt) == (samples - 1, 0) and number in sure:
            return sure[number]
        if number >= questions - len(TROUBLE_FOR_GOOD):
            return TROUBLE_FOR_GOOD[questions - number - 1]
        often = number < EARLY or number > 0.7 * questions
        if often and number % FOR_GOOD_EVERY == 7:
            return FOR_GOOD[number // FOR_GOOD_EVERY % len(FOR_GOOD)]
        dice = draw(seed, *ask.place, ask.attempt)
        which = draw(seed, *ask.place, ask.attempt, "which")
        for kinds, share in SHARES:
            if dice < share:
                return kinds[int(which * len(kinds))]
            dice -= share
        return ""

    return fault


def write_config(folder, questions, teachers, samples=SAMPLES, **generate):
    """A run of so many questions: `question 0` and so on."""
    rows = [{"question": f"question {n}", "answer": n} for n in range(questions)]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "name": "faults",
        "tasks": {"train": [{"source": "jsonl", "path": str(folder / "tasks.jsonl")}]},
        "teachers": teachers,
        "generate": {
            "prompt": {"template": "plain"},
            "sampling": {"max_tokens": 50, **({} if samples == 1 else {"seed": FIRST_SEED})},
            "samples": {"max": samples},
            "concurrency": WINDOW,
            "retries": RETRIES,
            **generate,
        },
        "filters": ["truncated"],
    }
    (folder / "config.yaml").write_text(json.dumps(config))


def start(folder, **environment):
    """`distill generate` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "synth", "generate", "config.yaml"], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment},
    )  # fmt: skip


def finish(folder, limit_s=LONGEST_RUN_S, **environment):
    """Runs it to its end: exit status, and what it printed. Raises TimeoutExpired if it hangs."""
    process = start(folder, **environment)
    try:
        said = process.communicate(timeout=limit_s)[0]
    finally:
        process.kill()
    return process.returncode, said


def manifest(folder):
    return json.loads((folder / "runs" / "faults" / "generate" / "manifest.json").read_text())


class Books:
    """What the store of a run holds, by (question, sample), whichever teacher was asked."""

    def __init__(self, folder):
        self.path = folder / "runs" / "responses.sqlite"
        with_config = load_run(str(folder / "config.yaml"))[0]
        generate, self.places = with_config.generate, {}
        prompt = load_prompt(generate.prompt.template)
        rows = (folder / "tasks.jsonl").read_text().splitlines()
        for teacher in build_teachers(with_config).values():
            for question in (json.loads(row)["question"] for row in rows):
                messages = prompt.messages(Task("", question), {})
                for sample in range(generate.samples.max):
                    request = Request(messages, generate.sampling.parameters(sample), sample)
                    self.places[request_key(request, teacher.identity).key] = question, sample

    def stored(self):
        """When each stored response was stored."""
        if not self.path.exists():
            return {}
        return {self.places[entry.key]: entry.created for entry in entries(self.path)}

    def whole(self):
        """Of the store: its rows, why requests that have no answer failed, and mix-ups."""
        with ResponseStore(self.path) as store:
            answered = {self.places[entry.key] for entry in entries(self.path)}
            reasons = {self.places[key]: reason for key, reason in failures(self.path).items()}
            mixed_up = [
                place
                for key, place in self.places.items()
                if (found := store.get(key)) is not None
                and (reasoning := parse_completion(found.raw)[0]) is not None
                and reasoning not in text_of(*place)
            ]
            failed = {place: why for place, why in reasons.items() if place not in answered}
            return store.count(), failed, mixed_up


@dataclass
class Account:
    """The figures of a campaign; `wrong` says in words what is off."""

    wanted: int
    seconds: float = 0.0
    kills: int = 0
    kills_before_asking: int = 0
    in_flight_at_kills: list = field(default_factory=list)
    stored_at_last_kill: int = 0
    ended: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    asked: int = 0
    served: int = 0
    stored: int = 0
    failed: Counter = field(default_factory=Counter)
    asked_again: int = 0
    lost: int = 0
    on_the_way: list = field(default_factory=list)
    wrong: list = field(default_factory=list)

    def check(self, holds, says):
        if not holds:
            self.wrong.append(says)

    def end(self, status, said):
        """Notes how a run ended by itself; whether another is to go on from there."""
        if status in (2, 3) and any(text in said for text in OUT_SAYS):
            self.ended[f"status {status}, the teacher was out"] += 1
            return True
        self.ended[f"status {status}, all was asked"] += 1
        self.check(status in (0, 3) and "Traceback" not in said, f"status {status}: {said[-2000:]}")
        return False


class Campaign:
    """All faults and so many kills, then a run to the end; `run` gives the account."""

    def __init__(self, kills, seed, folder, say=print, dialect="openai"):
        self.kills, self.seed, self.folder, self.say = kills, seed, folder, say
        self.dialect, self.samples = dialect, 1 if dialect in WITHOUT_SEED else SAMPLES
        self.questions = kills * QUESTIONS_A_KILL * SAMPLES // self.samples + FOR_GOOD_EVERY
        self.account = Account(wanted=self.questions * self.samples)

    def run(self):
        begun = time.monotonic()
        low, high = LATENCY_S
        with FaultServer(
            plan(self.seed, self.questions, self.samples),
            lambda ask: low + (high - low) * draw(self.seed, "wait", *ask.place),
        ) as self.server:
            root = self.server.url
            if self.dialect in ("anthropic", "gemini"):
                root = root.removesuffix("/v1")  # their kinds add the version
            options = {"model": "m", "base_url": root, "timeout_s": TIMEOUT_S}
            teachers = {"t": {**KINDS[self.dialect], **options}}
            write_config(self.folder, self.questions, teachers, self.samples)
            self.books, self.stored = Books(self.folder), {}
            self._kill()
            before = self._finish()
            self._settle(before)
        self.account.seconds = time.monotonic() - begun
        return self.account

    def _kill(self):
        account = self.account
        for number in range(2 * self.kills + 20):
            if account.kills == self.kills:
                break
            self._step(lambda begin, number=number: self._killed(begin, number))
            account.stored_at_last_kill = len(self.stored)
            if number % 20 == 19:
                self.say(f"{account.kills} kills, {len(self.stored)} of {account.wanted} stored")
        account.check(account.kills == self.kills, f"only {account.kills} kills came in time")
        account.check(len(self.stored) < account.wanted, "all was done before the last kill")

    def _killed(self, begin, number):
        """Starts it and kills it at a moment that is drawn; whether it was still there."""
        account, server = self.account, self.server
        early = draw(self.seed, "early", number) < EARLY_SHARE
        more = 0 if early else MOST_ANSWERS * draw(self.seed, "answers", number)
        wait_s = (EARLY_S if early else LATER_S) * draw(self.seed, "moment", number)
        until, deadline = server.answered + more, time.monotonic() + LONGEST_RUN_S
        process = start(self.folder)
        while server.answered < until and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        try:
            said = process.communicate(timeout=wait_s)[0]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            account.kills += 1
            account.kills_before_asking += len(server.log) == begin
            account.in_flight_at_kills.append(sum(not ask.done for ask in server.log[begin:]))
            process.communicate()
            return True
        account.end(process.returncode, said)
        return False

    def _finish(self):
        """Runs to the end, again after each fault that stops it; what was stored before the last."""
        going_on = True

        def to_the_end(begin):
            nonlocal going_on
            going_on = self.account.end(*finish(self.folder))
            return False

        while going_on and sum(self.account.ended.values()) < 200:
            before = self.stored
            self._step(to_the_end)
        return before

    def _step(self, run):
        """One start and its end, and what the store and the server's log say of it."""
        account, before, begin = self.account, self.stored, len(self.server.log)
        killed = run(begin)
        self.server.settle()
        self.stored, log = self.books.stored(), self.server.log[begin:]
        lost = [place for place, when in before.items() if self.stored.get(place) != when]
        again = [ask.place for ask in log if ask.place in before]
        on_the_way = sum(ask.answered for ask in log) - (len(self.stored) - len(before))
        account.lost += len(lost)
        account.asked_again += len(again)
        account.on_the_way.append(on_the_way)
        account.check(not lost, f"lost, or stored a second time: {lost[:3]}")
        account.check(not again, f"asked again though stored: {again[:3]}")
        bound = WINDOW if killed else 0
        missing = [
            (ask.place, ask.fault, f"{ask.took_s:.1f} s")
            for ask in log
            if ask.answered and ask.place not in self.stored
        ]
        account.check(
            0 <= on_the_way <= bound,
            f"served whole, not stored: {on_the_way} (killed: {killed}): {missing[:3]}",
        )

    def _settle(self, before):
        """The last run's end against all that was wanted, the store and the manifest."""
        account, log = self.account, self.server.log
        rows, failed, mixed_up = self.books.whole()
        account.asked, account.served = len(log), sum(ask.answered for ask in log)
        account.faults = Counter(ask.fault for ask in log if ask.met)
        never = set(certain(self.questions).values()) - account.faults.keys()
        account.check(not never, f"never sent: {sorted(never)}")
        account.stored = len(self.stored)
        account.failed = Counter(reason.split(":", 1)[0] for reason in failed.values())
        wanted = set(self.books.places.values())
        account.check(rows == account.stored, f"{rows} rows of {account.stored} requests")
        account.check(not mixed_up, f"answers to another request: {mixed_up[:3]}")
        missing = wanted - self.stored.keys() - failed.keys()
        account.check(not missing, f"neither answered nor failed: {sorted(missing)[:3]}")
        account.check(all(failed.values()), "a failure without a reason")
        account.check(
            account.served == account.stored + sum(account.on_the_way),
            f"served {account.served}, stored {account.stored}",
        )
        if account.wrong:
            return  # it may have no manifest
        last = manifest(self.folder)
        counts = last["counts"]
        for says, found, right in (
            ("rows", last["rows"]["train"], account.stored),
            ("bought", counts["bought"], account.stored - len(before)),
            ("reused", counts["reused"], len(before)),
            ("failed", sum(counts["failed"].values()), len(failed)),
            ("complete", last["complete"], not failed),
        ):
            account.check(found == right, f"manifest, {says}: {found}, and it is {right}")

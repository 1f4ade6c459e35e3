"""Teachers that end: what `distill generate` then does, by its exit status, words and store."""

import shutil
import time
from dataclasses import dataclass

from _shared.faults import FaultServer
from _shared.kills import SAMPLES, Books, finish, manifest, write_config

QUESTIONS, LIMIT_S = 40, 90
PATIENCE_S = 2  # generate.patience_s: so long without an answer, and a teacher is given up
DEAD = "http://127.0.0.1:9/v1"  # nothing listens there


@dataclass(frozen=True)
class End:
    """A teacher's end and what is to come of it.

    Attributes:
        fault: What the teacher answers from its `after`-th request on; "" is that nothing listens.
        others: How many sound teachers there are beside it.
        status: The exit status that is right.
        says: What has to be among the words.
        whole: Whether every sample is answered all the same, by the others.
        most_asked: Most requests that the ended teacher may still get, once it has ended.
    """

    fault: str
    others: int
    status: int
    says: str
    after: int = 0
    whole: bool = False
    most_asked: int = 16


ALL = QUESTIONS * SAMPLES
ENDS = {
    "wrong key": End("401", 0, 2, "does not accept the key", most_asked=1),
    "key withdrawn in the middle": End("401", 0, 2, "does not accept the key", after=20),
    "no such model": End("404", 0, 2, "knows no model", most_asked=1),
    "another model from the middle on": End(
        "other model", 0, 0, "answered as 2 models", after=20, whole=True, most_asked=ALL
    ),
    "quota used up": End("429, quota", 0, 3, "the balance or quota is used up", most_asked=1),
    "balance used up in the middle": End("402", 0, 3, "a rerun goes on", after=20),
    "nothing listens": End("", 0, 2, "cannot reach"),
    "moved elsewhere": End("redirect", 0, 2, "is moved to", most_asked=1),
    "always 502": End("502", 0, 3, "no answer for", most_asked=100),
    "one of three: nothing listens": End("", 2, 0, "given up", whole=True),
    "one of three: always 502": End("502", 2, 0, "given up", whole=True, most_asked=100),
    "one of three: answers nothing": End("no answer", 2, 0, "given up", whole=True),
    "one of three: quota in the middle": End("429, quota", 2, 0, "used up", after=10, whole=True),
    "one of three: key withdrawn": End(
        "401", 2, 0, "does not accept the key", after=10, whole=True
    ),
}


@dataclass
class Outcome:
    """What came of it; `wrong` says in words what is off."""

    status: int
    words: str
    answered: int
    seconds: float
    wrong: list


def outcome(end, folder):
    """Runs one end against the real command line. Raises TimeoutExpired if it hangs."""

    def plan(ask):
        if ask.model != "ending":
            return ""
        asked = sum(other.model == "ending" for other in server.log)
        return end.fault if asked >= end.after else ""

    with FaultServer(plan, 0.02) as server:
        sound = {"kind": "openai", "base_url": server.url, "timeout_s": 1.5}
        teachers = {
            "ending": {**sound, "model": "ending", "base_url": server.url if end.fault else DEAD}
        }
        teachers |= {f"sound{n}": {**sound, "model": f"sound{n}"} for n in range(end.others)}
        write_config(folder, QUESTIONS, teachers, patience_s=PATIENCE_S)
        start = time.monotonic()
        status, words = finish(folder, LIMIT_S)
        seconds = time.monotonic() - start
        server.settle()
        if end.whole and not status:
            # From the store alone: who stood in for whom is known there.
            shutil.rmtree(folder / "runs" / "faults")
            status, words_again = finish(folder, LIMIT_S)
            words += words_again
            server.settle()
        rows, _, mixed_up = Books(folder).whole()
        served = sum(ask.answered for ask in server.log)
        asked = sum(ask.model == "ending" for ask in server.log)
    wrong = []

    def check(holds, says):
        if not holds:
            wrong.append(says)

    check(status == end.status, f"exit status {status}, and {end.status} is right")
    check(end.says in words, f"no {end.says!r} in: {words[-600:]}")
    check("Traceback" not in words, words[-1000:])
    check(rows == served, f"{rows} stored of {served} that were served")
    check(not mixed_up, f"answers to another request: {mixed_up[:3]}")
    most = end.most_asked * (2 if end.whole else 1)  # a second start tries it anew
    check(asked - end.after <= most, f"asked {asked - end.after} times after its end")
    if end.whole:
        check(rows == ALL, f"{rows} of {ALL} answered")
        if status == 0:
            check(manifest(folder)["rows"]["train"] == ALL, "the manifest has another number")
    return Outcome(status, words, rows, seconds, wrong)

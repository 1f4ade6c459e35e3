"""Everything that can go wrong, at once: faults of every kind, and `kill -9` at random moments.

    python bench/faults.py                     100 kills, about five minutes
    python bench/faults.py --kills 20 --seed 7
    python bench/faults.py --kills 30 --dialect anthropic     or stream, responses, gemini

The real `distill generate` asks a server on loopback that fails in every way there is, and is
killed again and again; then it runs to its end. Every request is accounted for, by the server's
log and by the store. Exit status 1 if one is not.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from _shared.dialects import KINDS
from _shared.ends import ENDS, outcome
from _shared.faults import AGAIN, ANSWERS, OUT, REFUSED, ROUTED
from _shared.kills import WINDOW, Campaign
from common import machine, table


def show(account):
    flown = sorted(account.in_flight_at_kills)
    killed = account.on_the_way
    met = account.faults.total()
    table(
        ["every fault and `kill -9`", ""],
        [
            (
                "kills (SIGKILL), of them before the first request",
                f"{account.kills}, {account.kills_before_asking}",
            ),
            (
                "requests in flight at a kill: median, most",
                f"{flown[len(flown) // 2]}, {flown[-1]}",
            ),
            ("stored when the last kill came", account.stored_at_last_kill),
            ("runs that ended by themselves", _listed(account.ended)),
            (
                "requests that the server received; met a fault; killed before they met anything",
                f"{account.asked}; {met - account.faults['']}; {account.asked - met}",
            ),
            ("wanted: questions times samples", account.wanted),
            ("answered and stored exactly once", account.stored),
            (
                "failed for good, with their reason",
                f"{account.failed.total()}: {_listed(account.failed)}",
            ),
            ("answered, stored, and asked again", account.asked_again),
            ("stored before a kill and absent after", account.lost),
            (
                f"served whole, killed before stored (bound {WINDOW} a kill): all, most",
                f"{sum(killed)}, {max(killed)}",
            ),
            ("off", len(account.wrong)),
        ],
    )
    for says, kinds in (
        ("odd answers, stored as they came and not asked again", ANSWERS),
        ("faults that may pass, asked again", AGAIN),
        ("faults of one request, not asked again", REFUSED),
        ("faults of one request that end the run where it is the first", ROUTED),
        ("faults that end the run", OUT),
    ):
        sent = Counter({kind: account.faults[kind] for kind in kinds if kind})
        print(f"- {says} ({sent.total()}): {_listed(sent)}")
    print()
    for wrong in account.wrong:
        print(f"OFF: {wrong}")


def _listed(counter):
    return "; ".join(f"{what}: {number}" for what, number in sorted(counter.items())) or "none"


def show_ends():
    """Every end of a teacher; whether all went as it has to."""
    rows, wrong = [], []
    for name, end in ENDS.items():
        with tempfile.TemporaryDirectory() as folder:
            done = outcome(end, Path(folder))
        state = "OFF" if done.wrong else "as expected"
        rows.append((name, done.status, end.says, done.answered, f"{done.seconds:.1f}", state))
        wrong += [f"{name}: {what}" for what in done.wrong]
    header = ["what the teacher does", "exit status", "says", "answers stored", "seconds", ""]
    table(header, rows)
    for what in wrong:
        print(f"OFF: {what}")
    return not wrong


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--dialect", default="openai", choices=KINDS)
    chosen = parser.parse_args()
    sound = chosen.dialect != "openai" or show_ends()
    if chosen.kills:
        with tempfile.TemporaryDirectory() as folder:
            campaign = Campaign(chosen.kills, chosen.seed, Path(folder), dialect=chosen.dialect)
            account = campaign.run()
        print(
            f"{chosen.dialect}, {chosen.kills} kills, seed {chosen.seed}, {account.seconds:.0f} s; {machine()}\n"
        )
        show(account)
        sound = sound and not account.wrong
    sys.exit(not sound)


if __name__ == "__main__":
    main()

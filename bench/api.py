"""Generation over an API beside the peers: answers a second, client CPU and memory an answer.

    python bench/api.py                                    4,000 prompts, 256 in flight, 2 kB and 30 kB
    python bench/api.py --sizes 4000 --in-flight 256 --body 2k --ways ours,bare --runs 5
    python bench/api.py --full --results api.jsonl         the whole grid; started again, it goes on

A server on loopback gives every answer after 200 ms. It shares the cores with the client, so that
CPU an answer is the sturdier figure. Curator and distilabel each run in an environment of their
own: BENCH_CURATOR_PYTHON and BENCH_DISTILABEL_PYTHON name its Python (or --curator, --distilabel).
"""

import argparse
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from _server import Running
from common import machine, median, table

PEERS = Path(__file__).parent / "peers"
# Name -> script, its arguments, whose Python, and what is in the table.
WAYS = {
    "bare": ("loop_openai.py", ["aiohttp"], None, "AsyncOpenAI, aiohttp, stores nothing"),
    "httpx": ("loop_openai.py", ["httpx"], None, "AsyncOpenAI, httpx, stores nothing"),
    "ours": ("generate_ours.py", [], None, "synth.generate, stored durably"),
    "command": ("command_ours.py", [], None, "distill generate, start and records included"),
    "curator": ("run_curator.py", [], "curator", "Curator"),
    "distilabel": ("run_distilabel.py", [], "distilabel", "distilabel"),
    "aiohttp": ("post_aiohttp.py", [], None, "plain aiohttp posting, stores nothing"),
}
BODIES = {"2k": 2_000, "30k": 30_000}
LATENCY_S = 0.2
SAMPLE_S = 0.1  # between two looks at the memory


def measured(way, python, server, size, in_flight, limit_s):
    """One run of one way: its row for the results, with `error` where it did not end well."""
    script, arguments = WAYS[way][:2]
    server.reset()
    with tempfile.TemporaryDirectory() as folder:
        command = [python, PEERS / script, server.url, size, in_flight, folder, *arguments]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, cwd=folder, env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        memory = Memory(process.pid)
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()[0], f"not done in {limit_s:.0f} s"
        finally:
            memory.stop()
    after, seen = resource.getrusage(resource.RUSAGE_CHILDREN), server.reset()
    if process.returncode:
        return {"error": (err.strip() or "no message").splitlines()[-1][:300]}
    figures = json.loads(out.strip().splitlines()[-1])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answers = figures["answers"]
    row = {
        "per_second": round(answers / figures["seconds"], 1),
        "cpu_ms": round(1000 * (cpu - figures["cpu_before"]) / answers, 4),
        "mb": round(memory.peak / 2**20),
        "server_ms": round(1000 * seen["cpu"] / seen["requests"], 4),
        "requests": seen["requests"],
        "most_in_flight": seen["most_in_flight"],
        "versions": figures["versions"],
    }
    return row if answers == size else row | {"error": f"{answers} answers to {size} questions"}


class Memory(threading.Thread):
    """Watches the resident memory of a process and all its descendants; `peak` is in bytes."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self._end = pid, 0, threading.Event()
        self.start()

    def run(self):
        while not self._end.wait(SAMPLE_S):
            self.peak = max(self.peak, sum(map(_resident, _family(self.pid))))

    def stop(self):
        self._end.set()
        self.join()


def _family(pid):
    yield pid
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        children = [Path(f"/proc/{pid}/task/{t}/children").read_text().split() for t in threads]
    except OSError:  # it has just ended
        return
    for child in itertools.chain(*children):
        yield from _family(int(child))


def _resident(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def several(kind):
        return lambda text: [kind(part) for part in text.split(",")]

    parser.add_argument("--sizes", type=several(int), default=[4_000], help="prompts")
    parser.add_argument("--in-flight", type=several(int), default=[256])
    parser.add_argument("--body", type=several(str), default=list(BODIES), help="2k, 30k")
    parser.add_argument("--ways", type=several(str), default=list(WAYS), help=", ".join(WAYS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="1k, 10k, 100k; 256 and 1,024; 2k, 30k")
    parser.add_argument(
        "--limit", type=float, default=180, help="seconds; longer ones are left out"
    )
    parser.add_argument("--results", type=Path, help="JSON lines: appended to, and gone on from")
    for peer in ("curator", "distilabel"):
        parser.add_argument(f"--{peer}", default=os.environ.get(f"BENCH_{peer.upper()}_PYTHON"))
    chosen = parser.parse_args()
    for given, known in ((chosen.ways, WAYS), (chosen.body, BODIES)):
        if unknown := set(given) - set(known):
            parser.error(f"{', '.join(unknown)}: known are {', '.join(known)}")
    if chosen.full:
        chosen.sizes, chosen.in_flight = [1_000, 10_000, 100_000], [256, 1_024]
    return chosen


def main():
    chosen = options()
    pythons, absent = {}, []
    for way in chosen.ways:
        peer = WAYS[way][2]
        python = getattr(chosen, peer) if peer else sys.executable
        if python and Path(python).exists():
            pythons[way] = python
        else:
            absent.append(f"{way} left out: --{peer} names no Python")
    print("\n".join(absent), flush=True)
    old = (
        chosen.results.read_text().splitlines()
        if chosen.results and chosen.results.exists()
        else ()
    )
    rows = [json.loads(line) for line in old]
    cells = list(itertools.product(chosen.sizes, chosen.in_flight, chosen.body))
    for size, in_flight, body in cells:
        with Running(BODIES[body], LATENCY_S) as server:
            for run, (way, python) in itertools.product(range(chosen.runs), pythons.items()):
                place = {"way": way, "size": size, "in_flight": in_flight, "body": body, "run": run}
                if any(place.items() <= row.items() for row in rows):
                    continue
                if (seconds := expected(rows, way, in_flight, body, size)) > chosen.limit:
                    row = {"error": f"left out: about {seconds:.0f} s at the rate of fewer prompts"}
                else:
                    # A little over: what was expected to end in time may.
                    row = measured(way, python, server, size, in_flight, 1.5 * chosen.limit)
                row = place | row | {"load": os.getloadavg()[0], "time": round(time.time())}
                rows.append(row)
                print(_line(row), file=sys.stderr, flush=True)
                if chosen.results:
                    with chosen.results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    for cell in cells:
        show(cell, [r for r in rows if (r["size"], r["in_flight"], r["body"]) == cell], pythons)
    print("; ".join(sorted({f"{r['way']}: {r['versions']}" for r in rows if "versions" in r})))


def _line(row):
    if "error" in row:
        return f"{row['way']} {row['size']} {row['in_flight']} {row['body']}: {row['error']}"
    return (
        f"{row['way']} {row['size']} {row['in_flight']} {row['body']}: {row['per_second']:.0f}/s, "
        f"{row['cpu_ms']:.2f} ms, {row['mb']} MB"
    )


def expected(rows, way, in_flight, body, size):
    """Seconds that so many prompts take this way, by what was measured of fewer; 0 is not known."""
    like = [
        row["per_second"]
        for row in rows
        if (row["way"], row["in_flight"], row["body"]) == (way, in_flight, body)
        and "per_second" in row
    ]
    return size / like[-1] if like else 0.0


def show(cell, rows, ways):
    """One cell of the grid as a table, and what could not be measured."""
    size, in_flight, body = cell
    good = {way: [r for r in rows if r["way"] == way and "error" not in r] for way in ways}
    good = {way: found for way, found in good.items() if found}
    if good:
        loads = [row["load"] for found in good.values() for row in found]
        server = median([row for found in good.values() for row in found], "server_ms")
        print(
            f"{size:,} prompts, {in_flight:,} in flight, {body}B answers after {LATENCY_S * 1000:.0f} "
            f"ms; medians of {max(map(len, good.values()))} runs in turn; {machine()}; load "
            f"{min(loads):.1f} to {max(loads):.1f}; the server took {server:.3f} ms of CPU an answer\n"
        )
        base = good.get("bare")
        table(
            ["", "answers/s", "to bare", "CPU ms/answer", "to bare", "peak MB", "most in flight"],
            [
                (
                    WAYS[way][3],
                    f"{median(found, 'per_second'):.0f}",
                    _ratio(found, base, "per_second"),
                    f"{median(found, 'cpu_ms'):.3f}",
                    _ratio(found, base, "cpu_ms"),
                    f"{median(found, 'mb'):.0f}",
                    f"{median(found, 'most_in_flight'):.0f}",
                )
                for way, found in good.items()
            ],
        )
    for row in rows:
        if "error" in row and row["way"] in ways:
            print(f"{row['way']}, run {row['run']}: {row['error']}")


def _ratio(found, base, key):
    return f"{median(found, key) / median(base, key):.2f}" if base else "-"


if __name__ == "__main__":
    main()

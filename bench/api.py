"""Generation over an API beside the peers: answers a second, client CPU and memory an answer.

    python bench/api.py                                2,000 prompts, 256 in flight, 2 kB and 30 kB
    python bench/api.py --sizes 1000,10000 --in-flight 256,1024 --body 2k --ways ours,bare --runs 5
    python bench/api.py --full --results api.jsonl     the grid of RESULTS.md; started again, it goes on

A server on loopback, a process of its own, gives every answer after 200 ms. It shares the cores
with the client, so its own CPU is shown too: a server that is busy all the time is the limit, and
not the client. CPU an answer is the sturdier figure. Each way runs in a process of its own, in
turn; figures are medians, and imports are in none of them. CPU and memory are those of all of a
way's processes together.

Curator and distilabel need environments of their own, here in folders of your choice:

    python -m venv CURATOR && CURATOR/bin/pip install bespokelabs-curator==0.1.31
    python -m venv DISTILABEL && DISTILABEL/bin/pip install 'distilabel[openai]==1.5.3'
    export BENCH_CURATOR_PYTHON=CURATOR/bin/python BENCH_DISTILABEL_PYTHON=DISTILABEL/bin/python
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
from pathlib import Path

from _shared.server import Running
from common import machine, median, table

PEERS = Path(__file__).parent / "peers"
# Name -> script, its arguments, whose Python, and what is in the table.
WAYS = {
    "bare": ("loop_openai.py", ["aiohttp"], None, "AsyncOpenAI, aiohttp, stores nothing"),
    "httpx": ("loop_openai.py", ["httpx"], None, "AsyncOpenAI, httpx, stores nothing"),
    "ours": ("generate_ours.py", [], None, "synth.generate.runner, stored durably"),
    "command": ("command_ours.py", [], None, "distill generate, start and records included"),
    "curator": ("run_curator.py", [], "curator", "Curator, appended to a file"),
    "distilabel": ("run_distilabel.py", [], "distilabel", "distilabel, written at the end"),
    "aiohttp": ("post_aiohttp.py", [], None, "plain aiohttp posting, stores nothing"),
}
BODIES = {"2k": 2_000, "30k": 30_000}
LATENCY_S = 0.2
SAMPLE_S = 0.1  # between two looks at the memory
BUSY = 0.9  # of a core: from there on the server, which has one thread, is the limit
# --full: prompts, which ways, how many runs of each; at every window and size of answers.
FULL = (
    (2_000, list(WAYS), 3),
    (10_000, ["bare", "ours", "aiohttp"], 3),
    (100_000, ["ours"], 1),
)
FULL_IN_FLIGHT = [256, 1_024]
MEDIANS = ("per_second", "cpu_ms", "mb", "most_in_flight", "client_busy", "server_busy")


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
        "client_busy": round((cpu - figures["cpu_before"]) / figures["seconds"], 3),
        "server_busy": round(seen["cpu"] / figures["seconds"], 3),
        "requests": seen["requests"],
        "most_in_flight": seen["most_in_flight"],
        "versions": figures["versions"],
    }
    return row if answers == size else row | {"error": f"{answers} answers to {size} questions"}


class Memory(threading.Thread):
    """Watches the memory of a process and all its descendants; `peak` is in bytes.

    A page that several of them share counts once.
    """

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self._end = pid, 0, threading.Event()
        self.start()

    def run(self):
        while not self._end.wait(SAMPLE_S):
            family = list(_family(self.pid))
            used = _resident if len(family) == 1 else _proportional
            self.peak = max(self.peak, sum(map(used, family)))

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


def _proportional(pid):
    """Resident bytes, each page divided by how many processes share it: Pss in proc(5)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def several(kind):
        return lambda text: [kind(part) for part in text.split(",")]

    parser.add_argument("--sizes", type=several(int), default=[2_000], help="prompts")
    parser.add_argument("--in-flight", type=several(int), default=[256])
    parser.add_argument("--body", type=several(str), default=list(BODIES), help="2k, 30k")
    parser.add_argument("--ways", type=several(str), default=list(WAYS), help=", ".join(WAYS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--full", action="store_true",
        help="2k prompts all ways, 10k without the peers, 100k ours alone; 256 and 1,024 in flight",
    )  # fmt: skip
    parser.add_argument("--limit", type=float, default=300, help="seconds that one run may take")
    parser.add_argument("--results", type=Path, help="JSON lines: appended to, and gone on from")
    for peer in ("curator", "distilabel"):
        parser.add_argument(f"--{peer}", default=os.environ.get(f"BENCH_{peer.upper()}_PYTHON"))
    chosen = parser.parse_args()
    for given, known in ((chosen.ways, WAYS), (chosen.body, BODIES)):
        if unknown := set(given) - set(known):
            parser.error(f"{', '.join(unknown)}: known are {', '.join(known)}")
    chosen.grid = [(size, chosen.ways, chosen.runs) for size in chosen.sizes]
    if chosen.full:
        chosen.grid, chosen.in_flight = FULL, FULL_IN_FLIGHT
    return chosen


def main():
    chosen = options()
    pythons = {}
    for way in chosen.ways:
        peer = WAYS[way][2]
        python = getattr(chosen, peer) if peer else sys.executable
        if python and Path(python).exists():
            pythons[way] = python
        else:
            print(f"{way} left out: --{peer} names no Python; --help says how to make one\n")
    rows = []
    if chosen.results and chosen.results.exists():
        rows = list(map(json.loads, chosen.results.read_text().splitlines()))
    cells = list(itertools.product(chosen.body, chosen.in_flight))
    for (body, in_flight), (size, ways, runs) in itertools.product(cells, chosen.grid):
        here = {"in_flight": in_flight, "body": body, "size": size}
        with Running(BODIES[body], LATENCY_S) as server:
            for run, way in itertools.product(range(runs), ways):
                place = here | {"way": way, "run": run}
                if way not in pythons or any(place.items() <= row.items() for row in rows):
                    continue
                row = measured(way, pythons[way], server, size, in_flight, chosen.limit)
                row = place | row | {"load": round(os.getloadavg()[0], 1)}
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
                if chosen.results:
                    with chosen.results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    print(f"{machine()}; answers {LATENCY_S * 1000:.0f} ms after the question")
    for body, in_flight in cells:
        of_cell = [row for row in rows if (row["body"], row["in_flight"]) == (body, in_flight)]
        show(body, in_flight, of_cell)
    print("; ".join(sorted({f"{r['way']}: {r['versions']}" for r in rows if "versions" in r})))


HEADER = "|prompts|runs|answers/s|to bare|CPU ms/answer|to bare|peak MB|most in flight|client busy|server busy"


def show(body, in_flight, rows):
    """One size of answers and one window as a table, and what could not be measured."""
    good = {}
    for row in rows:
        if "error" not in row:
            good.setdefault((row["size"], row["way"]), []).append(row)
    lines = []
    for size, way in sorted(good, key=lambda cell: (cell[0], list(WAYS).index(cell[1]))):
        found, bare = good[size, way], good.get((size, "bare"))
        figure = {key: median(found, key) for key in found[0] if key in MEDIANS}
        lines.append(
            (
                *(WAYS[way][3], f"{size:,}", len(found), f"{figure['per_second']:.0f}"),
                *(_ratio(found, bare, "per_second"), f"{figure['cpu_ms']:.3f}"),
                *(_ratio(found, bare, "cpu_ms"), f"{figure['mb']:.0f}"),
                f"{figure['most_in_flight']:.0f}",
                *(f"{figure[who]:.0%}" for who in ("client_busy", "server_busy")),
            )
        )
    loads = [row["load"] for row in rows] or [0.0]
    print(f"\n{body}B answers, {in_flight:,} in flight; load {min(loads)} to {max(loads)}\n")
    table(HEADER.split("|"), lines)
    for size in sorted({size for size, _ in good}):
        ours = good.get((size, "ours"))
        others = [
            (way, good[size, way]) for way in ("curator", "distilabel") if (size, way) in good
        ]
        if ours and others:
            beside = (f"{_ratio(ours, found, 'per_second')} of {way}" for way, found in others)
            print(f"synth.generate.runner at {size:,} prompts: {', '.join(beside)}")
    limits = [
        f"{WAYS[way][3]}, {size:,} prompts"
        for (size, way), found in good.items()
        if median(found, "server_busy") > BUSY
    ]
    if limits:
        print(f"The server's core was full, and the limit: {'; '.join(limits)}")
    for row in rows:
        if "error" in row:
            print(f"{row['way']}, {row['size']:,} prompts, run {row['run']}: {row['error']}")


def _ratio(found, base, key):
    return f"{median(found, key) / median(base, key):.2f}" if base else "-"


if __name__ == "__main__":
    main()

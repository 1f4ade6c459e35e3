"""CPU of the response store an answer, beyond compression; and the room an answer takes on disk.

python bench/store.py            about a minute
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from _shared.server import answers
from common import alternate, machine, median, table, versions

RUNS, IN_FLIGHT = 5, 256
SIZES = {"2 kB": (2_000, 8_000), "30 kB": (30_000, 4_000)}  # bytes of an answer, how many
WAYS = ("put", "compress", "loop")


def pairs(body_bytes, number):
    """Keys and answers to store, no two alike."""
    from synth.core.record import Request
    from synth.store.keys import request_key

    parts = answers(body_bytes)
    identity = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m"}
    for n in range(number):
        request = Request([{"role": "user", "content": f"Question {n}?"}], {"max_tokens": 512}, 0)
        before, after = parts[n % len(parts)]
        yield request_key(request, identity), b"%s%012d%s" % (before, n, after)


async def at_a_time(items, work):
    """Awaits `work` for every item, so many at a time as generation has in flight."""
    left = iter(items)

    async def one():
        for item in left:
            await work(item)

    await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))


def measure(way, size):
    from synth.core.compression import compress
    from synth.store.responses import ResponseStore

    items = list(pairs(*SIZES[size]))
    compress(b"warm")
    disk = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "responses.sqlite"
        start = time.process_time()
        if way == "put":
            with ResponseStore(path) as store:
                asyncio.run(at_a_time(items, lambda item: store.persist(*item)))
        elif way == "compress":
            for key, answer in items:
                compress(key.body)
                compress(answer)
        else:
            asyncio.run(at_a_time(items, lambda _: asyncio.sleep(0)))
        seconds = time.process_time() - start
        if way == "put":
            with ResponseStore(path) as store:
                assert store.count() == len(items)
            disk = path.stat().st_size
    return {"us": 1e6 * seconds / len(items), "disk": disk / len(items)}


def main():
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*sys.argv[2].split("/"))))
        return
    names = [f"{way}/{size}" for size in SIZES for way in WAYS]
    results = alternate(__file__, names, RUNS)
    print(
        f"{IN_FLIGHT} writes at a time, {RUNS} runs each in turn, medians of CPU microseconds an "
        f"answer; {machine()}; {versions('zstandard')}\n"
    )
    rows = []
    for size, (body, number) in SIZES.items():
        whole, packing, loop = (median(results[f"{way}/{size}"], "us") for way in WAYS)
        disk = median(results[f"put/{size}"], "disk")
        beyond = whole - packing - loop
        figures = [f"{x:.0f}" for x in (whole, packing, loop, beyond)]
        rows.append((size, f"{number:,}", *figures, f"{disk:,.0f}", f"{disk / body:.2f}"))
    header = (
        "answer|answers|ResponseStore.persist|- compressing|- empty loop|= the store|"
        "bytes on disk|of its size"
    )
    table(header.split("|"), rows)


if __name__ == "__main__":
    main()

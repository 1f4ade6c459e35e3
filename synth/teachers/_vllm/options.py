"""What the two ways to run vLLM share: their options, the weights, their log, and soft labels."""

from __future__ import annotations

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
from synth.core.errors import UserError, nearest
from synth.core.record import digest
from synth.teachers.base import TeacherConfig

# Engine arguments that change when an answer comes, or whether there is room for it, but not what
# it says. All others are part of the teacher's identity.
NON_IDENTITY_ARGUMENTS = {
    "block_size",
    "disable_log_stats",
    "distributed_executor_backend",
    "download_dir",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "kv_cache_memory_bytes",
    "load_format",
    "long_prefill_token_threshold",
    "max_logprobs",
    "max_num_batched_tokens",
    "max_num_partial_prefills",
    "max_num_seqs",
    "max_parallel_loading_workers",
    "pipeline_parallel_size",
    "safetensors_load_strategy",
}


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
        own = set(Options.model_fields) - TeacherConfig.shared() | {"served_model_name", "api_key"}
        if twice := own & self.engine.keys():
            raise ValueError(f"engine.{min(twice)}: set it as an option of the teacher, or not")
        return self

    def identity(self) -> dict[str, Any]:
        """All that makes the answers what they are.

        One identity for both ways: the same engine computes the same weights, so it is the same
        endpoint, and what one way has answered the other need not compute again.
        """
        found: dict[str, Any] = {
            "kind": "vllm",
            "model": models.weights_identity(self.model),
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
            "reasoning_parser": self.reasoning_parser,
            "chat_template": digest(self.chat_template) if self.chat_template else None,
        }
        engine = {k: v for k, v in self.engine.items() if k not in NON_IDENTITY_ARGUMENTS}
        if engine:
            found["engine"] = engine
        return {key: value for key, value in found.items() if value is not None}

    def arguments(self) -> dict[str, Any]:
        """Engine arguments by vLLM's names, the model aside."""
        names = (
            "dtype",
            "max_model_len",
            "tensor_parallel_size",
            "data_parallel_size",
            "gpu_memory_utilization",
            "enforce_eager",
            "trust_remote_code",
        )
        set_here = {n: v for n in names if (v := getattr(self, n)) not in (None, False)}
        # vLLM's chance begins alike at every start, so a run that goes on would draw for its later
        # samples what it had drawn for the earlier ones. Requests with a seed do not depend on it.
        chance = {"seed": secrets.randbelow(2**31)}
        # Soft labels are as wide as the config asks; vLLM's own limit is 20.
        return {**set_here, **chance, "max_logprobs": -1, **self.engine}


# Parameters of vLLM's chat completions that are no parameters of one answer's sampling.
_NOT_SAMPLING = {
    "chat_template",
    "echo",
    "messages",
    "model",
    "n",
    "prompt_logprobs",
    "request_id",
    "stream",
    "stream_options",
    "tool_choice",
    "tools",
    "use_beam_search",
}


def check_parameters(sampling: Iterable[str], known: set[str], name: str) -> None:
    """Raises UserError for a parameter that vLLM does not know; it would pass over it in silence.

    Args:
        sampling: The parameters by name.
        known: What vLLM's chat completions know.
        name: The teacher's, for the message.
    """
    allowed = known - _NOT_SAMPLING
    for key in sampling:
        if key == "n":
            raise UserError(f"teacher {name}: sampling parameter 'n': set generate.samples instead")
        if key not in allowed:
            hint = nearest(key, allowed)
            raise UserError(f"teacher {name}: unknown sampling parameter {key!r}{hint}")


def lacking(options: Options) -> list[str]:
    """What is missing to find the weights; empty where nothing is."""
    try:
        _, gguf = models.locate(options.model)
        if gguf:
            models.require_transformers(f"the model {options.model}")
    except UserError as error:
        return [str(error)]
    if gguf and importlib.util.find_spec("gguf") is None:
        return [f"the model {options.model} needs the package gguf: pip install gguf"]
    return []


def cache_folder(name: str) -> Path:
    """A folder of ours in the user's cache; made where it is not there."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = home / "synth-distill" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def _sockets() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vllm-", ignore_cleanup_errors=True)


def sockets_folder() -> str:
    """Where vLLM's processes meet; gone with this process, unless that is killed.

    vLLM leaves its sockets behind, seven an engine, in the system's temporary folder by itself. The
    folder is one for all engines, since vLLM looks it up once in a process.
    """
    return os.environ.get("VLLM_RPC_BASE_PATH") or _sockets().name


def weights(model: str) -> str:
    """What vLLM takes for a model: a hub id or a folder.

    vLLM reads no GGUF files. One is converted once, into the user's cache, in float32: nothing that
    it holds is lost, and vLLM rounds it to the dtype that was asked for.

    Raises:
        UserError: No such model, or no room for it.
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
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix="unfinished-"))
    try:
        models.load_model(model, "float32", "cpu").save_pretrained(made)
        models.load_tokenizer(model).save_pretrained(made)
        with contextlib.suppress(OSError):  # another run was faster
            made.rename(target)
    except OSError as error:
        raise UserError(f"cannot convert {model} in {made}: {error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return str(target)


def say(text: str) -> None:
    """One line on standard error; loading takes a minute, and silence would look like a hang."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def new_log(name: str) -> Path:
    """Where vLLM of this teacher writes its log. It is removed when all ends well."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return cache_folder("logs") / f"vllm-{plain}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"


_PREFIX = re.compile(r"^\(.*? pid=\d+\) (?:[A-Z]+ [\d:. -]+\[\S+\] )?|^[\d:, -]+ [A-Z]+ ")
_CAUSE = re.compile(r"^\s*(?:[\w.]+(?:Error|Exception)|vllm.*: error): \S")
_NO_CAUSE = re.compile(r"root cause|background process|SystemExit|EngineDeadError")


def _lines(log: Path) -> list[str]:
    """The end of a log, without what vLLM writes before each line, and fit for a terminal."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")[-100_000:]
    except OSError:
        return []
    plain = (_PREFIX.sub("", line).rstrip() for line in text.splitlines())
    return ["".join(c if c.isprintable() else " " for c in line) for line in plain if line]


def last_line(log: Path) -> str:
    """What the log said last."""
    return next(reversed(_lines(log)), "(nothing in the log yet)")[:160]


def tail(log: Path) -> str:
    """The last cause that a log names, or its last lines where it names none."""
    return cause(log) or "\n".join(_lines(log)[-8:]) or "(the log is empty)"


def cause(log: Path) -> str | None:
    """The last cause that a log names."""
    lines = _lines(log)
    for at, line in reversed(list(enumerate(lines))):
        if _CAUSE.search(line) and not _NO_CAUSE.search(line):
            more = lines[at + 1 : at + 2] if "validation error" in line else []  # pydantic's
            return " ".join(" ".join([line, *more]).split())[:1000]
    return None

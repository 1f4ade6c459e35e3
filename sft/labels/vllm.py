"""A teacher that reads by vLLM: the likeliest tokens at temperature 1, from its prompt_logprobs.

vLLM gives log-probabilities, that is, logits less their logsumexp: they are stored as logits whose
logsumexp at T = 1 is 0. Of other temperatures it can say something only by handing over the whole
vocabulary at each position, as Python objects: a tenth of the speed, and megabytes a token.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np

from sft.data.encoding import IGNORED, Encoded
from sft.labels.codec import TeacherTopK
from sft.labels.labeler import Wanted, check_finite, check_wanted
from synth.core.errors import MissingPackage, UserError, nearest

# What is ours to set: prompts are token ids, each is read once and answered by one token that is
# thrown away, and nothing is asked for by name.
_FIXED: dict[str, Any] = {
    "disable_log_stats": True,
    "enable_prefix_caching": False,
    "logprobs_mode": "raw_logprobs",
    "skip_tokenizer_init": True,
    "use_tqdm_on_load": False,
}


class Reader:
    """A teacher that reads batches of examples, by vLLM.

    Rows of the output layer beyond the shared vocabulary cannot be taken out of vLLM's softmax:
    their mass, next to nothing in a trained model, counts as that of tokens that are not stored.

    Raises:
        UserError: `wanted` does not fit the model, or asks for a temperature other than 1.
    """

    name = "vllm"

    def __init__(self, llm: Any, wanted: Wanted) -> None:
        self.llm, self.wanted = llm, wanted
        model = llm.llm_engine.model_config
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.longest = model.max_model_len - 1  # a token is answered
        self.vocabulary = check_wanted(wanted, model.get_vocab_size())
        if set(wanted.temperatures) != {1.0}:
            raise UserError("label: vLLM gives log-probabilities at temperature 1 alone")

    def close(self) -> None:
        """Gives the teacher's memory back."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        cleanup_dist_env_and_memory()

    def read(
        self, examples: Sequence[Encoded], ids: Sequence[str] | None = None
    ) -> list[TeacherTopK]:
        """Reads the soft labels of a batch; `ids` are for messages alone.

        Raises:
            UserError: An example does not fit vLLM's window, a log-probability is not a number, or
                a row beyond the vocabulary is among the likeliest.
        """
        from vllm import SamplingParams

        for example in examples:
            if len(example.input_ids) > self.longest:
                raise UserError(
                    f"label.engine_options.max_model_len: vLLM takes {self.longest} tokens and "
                    f"answers one; a trace has {len(example.input_ids)}. Raise it, or set "
                    "label.engine: transformers"
                )
        sampling = SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=self.wanted.k,
            flat_logprobs=True,
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": list(example.input_ids)} for example in examples]
        answers = self.llm.generate(prompts, sampling, use_tqdm=False)
        labels = [self._kept(*both) for both in zip(examples, answers, strict=True)]
        check_finite(labels, ids)
        return labels

    def _kept(self, example: Encoded, answer: Any) -> TeacherTopK:
        """Labels of one example; entry t of the answer scores token t, the first scores none."""
        flat, n = answer.prompt_logprobs, len(example.input_ids) - 1
        # Of each position first the token that stands there, then the likeliest ones.
        where = np.asarray(example.labels[1:]) != IGNORED
        top_ids = np.asarray(flat.token_ids, np.int32).reshape(n, -1)[where, 1:]
        top = np.asarray(flat.logprobs, np.float32).reshape(n, -1)[where, 1:]
        if (top_ids >= self.vocabulary).any():
            raise UserError(
                "label: the teacher finds ids likely that are beyond the tokens it shares with the "
                "student; label.engine: transformers leaves them out of its softmax"
            )
        return TeacherTopK(top_ids, top, np.zeros((len(top), 1), np.float32))


def load(model: str, wanted: Wanted, longest: int, options: Mapping[str, Any]) -> Reader:
    """Loads a teacher into vLLM's engine, inside this process.

    Args:
        model: A hub id or a folder with safetensors.
        wanted: What is kept.
        longest: Tokens of the longest example.
        options: Arguments of `vllm.LLM`, `dtype` and `trust_remote_code` among them.

    Raises:
        UserError: An argument that vLLM does not know or that is ours to set, or the model cannot
            be loaded.
        MissingPackage: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise MissingPackage("vllm", "label.engine: vllm", "vllm")
    with _quiet_in_this_process():
        return _load(model, wanted, longest, options)


@contextmanager
def _quiet_in_this_process() -> Iterator[None]:
    """Sets what vLLM reads while it starts, and takes it back after.

    A teacher that vLLM serves later in this process is to have processes of its own again.
    """
    # No processes that a kill of this one would leave behind, and no lines amid ours.
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ |= added
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        from vllm.envs import disable_envs_cache

        disable_envs_cache()


def _load(model: str, wanted: Wanted, longest: int, options: Mapping[str, Any]) -> Reader:
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    for name in options:
        if name not in known or name in {*_FIXED, "model", "max_logprobs"}:
            why = "is set here" if name in known else f"is unknown to vLLM{nearest(name, known)}"
            raise UserError(f"label.engine_options.{name}: {why}")
    arguments = {
        **_FIXED,
        "max_logprobs": wanted.k,
        "max_num_batched_tokens": max(wanted.batch_tokens, longest + 1),
        **options,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            llm = LLM(model=model, **arguments)
    except (ValueError, RuntimeError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())[:500]
        raise UserError(f"label: vLLM cannot load {model}: {reason}") from error
    return Reader(llm, wanted)

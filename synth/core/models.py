"""Loads models and tokenizers by one kind of name, for teachers and students alike.

A model is named by a hub id (`Qwen/Qwen2.5-1.5B`), a folder, a `.gguf` file, or
`package:NAME/FILE` for weights that an installed Python package carries.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synth.core._models import gguf_files
from synth.core.errors import MissingPackage, UserError
from synth.core.files import PACKAGE_PREFIX, package_file
from synth.core.progress import doing


def require_transformers(needed_for: str) -> None:
    """Raises MissingPackage where torch or transformers is not installed."""
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, needed_for, extra="train")


def locate(model: str) -> tuple[str, str | None]:
    """Returns what `from_pretrained` takes (a hub id or a folder), and the GGUF file in it, if any.

    Raises UserError where the package, folder or file does not exist.
    """
    if model.startswith(PACKAGE_PREFIX):
        path = package_file(model, f"the model {model}")
    else:
        path = Path(model).expanduser()
        if not path.exists():
            # `./x`, `/x`, `~/x` and `x.gguf` can only be meant as paths; the rest may be a hub id.
            if model.startswith((".", "/", "~")) or model.endswith(".gguf") or model.count("/") > 1:
                raise UserError(f"model {model}: no such file or folder")
            return model, None
    if path.is_file():
        return str(path.parent), path.name
    return str(path), None


def weights_identity(model: str) -> str:
    """Names the weights that a model's name stands for at this moment.

    A hub id names itself. Local weights are named by their content (SHA-256), so that a student
    trained anew into the same folder is another model.
    """
    folder, gguf = locate(model)
    path = Path(folder)
    if not path.is_dir():
        return folder
    weights, settings = sorted(path.glob("*.safetensors")), sorted(path.glob("*.json"))
    total = hashlib.sha256()
    for file in [path / gguf] if gguf else weights + settings:
        total.update(file.name.encode())
        with file.open("rb") as handle:
            total.update(hashlib.file_digest(handle, "sha256").digest())
    return f"sha256:{total.hexdigest()}"


def load_tokenizer(model: str, trust_remote_code: bool = False) -> Any:
    """Loads the tokenizer of a model, as transformers gives it."""
    require_transformers(f"the model {model}")
    folder, gguf = locate(model)
    with loading(model, "the tokenizer of "):
        if gguf:
            return gguf_files.tokenizer_of(Path(folder, gguf))
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def load_config(model: str, trust_remote_code: bool = False) -> Any:
    """Loads the config of a model, as transformers gives it."""
    require_transformers(f"the model {model}")
    folder, gguf = locate(model)
    with loading(model, "the config of "):
        if gguf:
            return gguf_files.config_of(Path(folder, gguf))
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def load_model(
    model: str, dtype: str = "float32", device: str | None = None, trust_remote_code: bool = False
) -> Any:
    """Loads a causal language model with its weights, in evaluation mode.

    Weights from a GGUF file are moved into a fresh model of the same config: the object that
    transformers makes of such a file counts as quantised and refuses to be saved.

    Args:
        model: See the head of this module.
        dtype: A torch dtype by name, or `auto` for what the checkpoint holds.
        device: A torch device by name; None takes the GPU where there is one.
        trust_remote_code: Whether code that lies beside the weights may run.
    """
    require_transformers(f"the model {model}")
    folder, gguf = locate(model)
    with loading(model):
        import torch
        from transformers import AutoModelForCausalLM

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if gguf:
            read = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=gguf,
                config=gguf_files.config_of(Path(folder, gguf)),
                dtype=torch.float32,
            )
            config = type(read.config).from_dict(
                {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
            )
            target = torch.float32 if dtype == "auto" else getattr(torch, dtype)
            loaded = AutoModelForCausalLM.from_config(config, dtype=target)
            loaded.load_state_dict(read.state_dict())
            loaded.tie_weights()
        else:
            loaded = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, trust_remote_code=trust_remote_code
            )
        return loaded.to(device).eval()


@contextlib.contextmanager
def loading(model: str, part: str = "") -> Iterator[None]:
    """Says that a model is loading, and turns what a hub raises into one message."""
    with doing(f"loading {part}{model}"), _one_message(model):
        yield


@contextlib.contextmanager
def _one_message(model: str) -> Iterator[None]:
    from tqdm.auto import tqdm
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The run has a progress line of its own; reading a GGUF file shows one in spite of this.
    logging.disable_progress_bar()
    modeling_gguf_pytorch_utils.tqdm = functools.partial(tqdm, disable=True)
    gguf_files.read_fast()
    try:
        yield
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(f"cannot load the model {model!r}: {first}") from error

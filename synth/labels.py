"""Soft labels: the likeliest tokens at each position of an answer, with their log-probabilities.

They come with an answer (from vLLM, or an API that gives them) and lie beside the records in side
files, keyed by the record's id and a hash of the token ids, so that training can prove that it
pairs them with the very tokens they were made for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TOKEN_ID = "token_id:"
# Log-probability of a place that is not filled: a position may have fewer entries than others.
EMPTY = -float("inf")


@dataclass(slots=True)
class Labels:
    """Top-k log-probabilities of one answer.

    Attributes:
        token_ids: (n,) int32: the tokens that were generated, end token included where given.
        chosen: (n,) float32: log-probability of each of them.
        top_ids: (n, k) int32: the likeliest tokens, likeliest first; -1 where not filled.
        top_logprobs: (n, k) float32: their log-probabilities; -inf where not filled.
        temperature: The temperature at which these are log-probabilities (1.0: the model's own).
            It is not the temperature at which the tokens were drawn. A softmax at another
            temperature cannot be recovered from top-k, so it is stated.
    """

    token_ids: NDArray[np.int32]
    chosen: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]
    temperature: float = 1.0

    @property
    def tokens_hash(self) -> str:
        """SHA-256 (hex) of the token ids as little-endian int32."""
        return hash_tokens(self.token_ids)

    def __len__(self) -> int:
        return len(self.token_ids)


def hash_tokens(token_ids: Any) -> str:
    """SHA-256 (hex) of token ids, a sequence or array, as little-endian int32."""
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(token_ids, dtype="<i4").tobytes()).hexdigest()

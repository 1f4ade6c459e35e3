"""How the embedded teacher decodes: rows come and go while one key-value store serves them all.

`Slots` is continuous batching for models whose layers keep all keys; `Whole` goes through
`model.generate` for the others. `choose_engine` chooses, and makes sure of its choice on a trial.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

from synth.core import models
from synth.core.errors import UserError
from synth.core.record import Request, digest
from synth.teachers._transformers.sampling import Row, Sampling, choose_tokens
from synth.teachers.base import RequestRejected

# What ends a turn in chat templates whose checkpoint names only the end of a document.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
_ATTENTION = "synth_grouped_sdpa"
_ROOM = 128  # tokens by which the key-value store grows
_WORTH_SHARING = 16  # tokens of common beginning for which a request waits for another's prefill
_PREFILL_TOKENS = 8192  # tokens, padding included, in one prefill


def settle(future: Future[dict[str, Any]], outcome: dict[str, Any] | Exception) -> None:
    try:
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:  # cancelled by whoever asked
        pass


class Loaded:
    """The model and its tokenizer: from a request to tokens, and from tokens to a response."""

    def __init__(
        self,
        name: str,
        model: str,
        dtype: str,
        device: str | None = None,
        trust_remote_code: bool = False,
        chat_template: str | None = None,
    ) -> None:
        self.name, self.named = name, model
        self.tokenizer = models.load_tokenizer(model, trust_remote_code)
        self.tokenizer.chat_template = chat_template or self.tokenizer.chat_template
        if not self.tokenizer.chat_template:
            raise UserError(
                f"teacher {name}: the tokenizer of {model} has no chat template; "
                "use a model that was trained to chat (an Instruct or Chat version)"
            )
        try:
            self.model = models.load_model(model, dtype, device, trust_remote_code)
        except RuntimeError as error:
            first = str(error).split("\n")[0]
            raise UserError(f"teacher {name}: cannot load {model}: {first}") from error
        text_config = self.model.config.get_text_config(decoder=True)
        self.window: int = getattr(text_config, "max_position_embeddings", None) or 1 << 30
        self.ends = {self.tokenizer.eos_token_id}
        for source in (self.model.generation_config, text_config):
            ends = getattr(source, "eos_token_id", None)
            self.ends.update(ends if isinstance(ends, list) else [ends])
        added = self.tokenizer.get_added_vocab()
        self.ends.update(added[end] for end in _TURN_ENDS if end in added)

    def row(self, request: Request, sampling: Sampling, future: Future[dict[str, Any]]) -> Row:
        from jinja2 import TemplateError

        try:
            ids = self.tokenizer.apply_chat_template(
                request.messages, add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
        except TemplateError as error:
            raise UserError(
                f"teacher {self.name}: the chat template refuses the prompt: {error}"
            ) from error
        room = self.window - len(ids)
        if room < 1:
            raise RequestRejected(
                f"prompt too long: {len(ids)} tokens in a window of {self.window}"
            )
        # Chance hangs on the request alone, never on who else is in the batch.
        seed = digest([request.messages, request.sampling, request.sample])
        limit = min(sampling.max_tokens or room, room)
        return Row(future, list(ids), len(ids), limit, sampling, random.Random(seed))

    def take(self, row: Row, token: int) -> None:
        """Gives a row its next token, and its answer where that was the last."""
        row.ids.append(token)
        new = row.ids[row.prompt :]
        if token in self.ends:
            row.finish, row.text = "stop", self.text(new[:-1])
        elif (cut := self._stopped(row, new)) is not None:
            row.finish, row.text = "stop", cut
        elif len(new) >= row.limit:
            row.finish, row.text = "length", self.text(new)
        if row.finish is not None:
            usage = {"prompt_tokens": row.prompt, "completion_tokens": len(new)}
            message = {"role": "assistant", "content": row.text}
            choice = {"index": 0, "message": message, "finish_reason": row.finish}
            settle(row.future, {"model": self.named, "choices": [choice], "usage": usage})

    def _stopped(self, row: Row, new: list[int]) -> str | None:
        stops = row.sampling.stops
        if not stops:
            return None
        # A token has at least one byte, so a stop that has just ended lies in these.
        tail = self.text(new[-max(len(stop.encode()) for stop in stops) - 8 :])
        if not any(stop in tail for stop in stops):
            return None
        text = self.text(new)
        found = [text.index(stop) for stop in stops if stop in text]
        return text[: min(found)] if found else None

    def text(self, ids: list[int]) -> str:
        return str(
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def advance(self, logits: Any, rows: Sequence[Row]) -> list[int]:
        """Chooses and gives the next token of each row."""
        tokens = choose_tokens(logits, rows)
        for row, token in zip(rows, tokens, strict=True):
            self.take(row, token)
        return tokens


def _grouped_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> tuple[Any, None]:
    """Scaled dot-product attention that, in decoding, does not copy the keys for each query head.

    The query heads that share a key head stand in the place of positions: with one new position a
    row they all see the same mask.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    batch, heads, length, size = query.shape
    if length > 1 or kwargs.get("position_bias") is not None:
        attended: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return attended
    grouped = query.reshape(batch, key.shape[1], -1, size)
    output = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling")
    )
    return output.reshape(batch, 1, heads, value.shape[-1]), None


class Slots:
    """Continuous batching over one preallocated key-value store with a slot for each row.

    A slot keeps the keys and values of its last sequence after that is done. A new request copies
    those of the slot whose sequence begins most like its own, and computes only what follows.
    The layers of the model see this object in place of transformers' Cache, and call `update`.
    """

    def __init__(self, loaded: Loaded, size: int) -> None:
        self.loaded, self.size = loaded, size
        self.taken: list[Row] = []  # all that it has to answer
        self.rows: list[Row | None] = []  # the slots in use; None is a hole
        self.kept: list[list[int]] = [[] for _ in range(size)]  # tokens whose keys a slot holds
        self.stores: tuple[list[Any], list[Any]] = ([], [])  # keys, values of each layer
        self.capacity = self.seen = 0
        # Where the tokens now being computed go, and what their rows may look at.
        self.slots: Any = None
        self.places: Any = None
        self.view: Any = None

    def turn(self, waiting: deque[Row]) -> None:
        """Lets waiting requests in where it pays, and gives every row its next token."""
        self.rows = [None if row and row.future.cancelled() else row for row in self.rows]
        self.taken = [row for row in self.rows if row]
        free = self.size - len(self.taken)
        # A prefill costs about a step whether it is of one row or of several: let some gather.
        if waiting and free >= max(1, self.size // 4):
            self._admit(_take(waiting, free, self.taken))
        elif not waiting:
            self._close_up()
        if self.rows:
            self._step()
        self.taken = [row for row in self.rows if row]

    def _step(self) -> None:
        # A hole repeats its last token in its own place, which changes nothing.
        ids = [row.ids if row else self.kept[i] for i, row in enumerate(self.rows)]
        logits = self.forward(range(len(ids)), [s[-1:] for s in ids], [len(s) - 1 for s in ids])
        live = [i for i, row in enumerate(self.rows) if row]
        for i in live:
            self.kept[i].append(ids[i][-1])
        rows = [row for row in self.rows if row]
        self.loaded.advance(logits[live], rows)
        self.rows = [None if row is None or row.finish else row for row in self.rows]

    def _close_up(self) -> None:
        """Moves the rows together when few are left, so that steps get shorter."""
        live = [i for i, row in enumerate(self.rows) if row]
        if live and len(live) > 0.75 * len(self.rows):
            return
        for to, source in enumerate(live):
            if to != source:
                self._copy(source, to, len(self.kept[source]))
                self.rows[to] = self.rows[source]
        del self.rows[len(live) :]

    def _copy(self, source: int, to: int, length: int) -> None:
        for stores in self.stores:
            for store in stores:
                store[to, :, :length] = store[source, :, :length]
        self.kept[to] = self.kept[source][:length]

    def _admit(self, new: list[Row]) -> None:
        if not new:
            return
        self.rows += [None] * (len(self.taken) - len(self.rows))
        self.reserve(max(len(row.ids) + min(row.limit, _ROOM) for row in new))
        while new:
            wave: list[int] = []
            later: list[Row] = []
            for row in new:
                shared, source = max((_common(row.ids[:-1], k), i) for i, k in enumerate(self.kept))
                first = [r for i in wave if (r := self.rows[i])]
                if any(_common(row.ids, r.ids) >= shared + _WORTH_SHARING for r in first):
                    later.append(row)
                    continue
                # The slot in which the least is lost.
                lost, to = min(
                    (len(self.kept[i]) - _common(row.ids[:-1], self.kept[i]), i)
                    for i, other in enumerate(self.rows)
                    if other is None
                )
                if len(self.kept[to]) - lost < shared:
                    self._copy(source, to, shared)
                del self.kept[to][shared:]
                self.rows[to] = row
                wave.append(to)
            self._prefill(wave)
            new = later

    def _prefill(self, slots: list[int]) -> None:
        """Computes what the slots' prompts have beyond what was kept, all but the last token."""
        todo = [(row.ids[len(self.kept[i]) : -1], i) for i in slots if (row := self.rows[i])]
        todo = sorted((job for job in todo if job[0]), key=lambda job: -len(job[0]))
        while todo:
            width = len(todo[0][0])
            count = sum(2 * len(ids) > width for ids, _ in todo)
            part = todo[: max(1, min(count, _PREFILL_TOKENS // width))]
            del todo[: len(part)]
            which = [slot for _, slot in part]
            self.forward(which, [ids for ids, _ in part], [len(self.kept[i]) for i in which])
            for ids, slot in part:
                self.kept[slot] += ids

    def forward(self, slots: Iterable[int], ids: list[list[int]], starts: list[int]) -> Any:
        """Runs the model over new tokens of some slots.

        Returns:
            Logits of the last column; of use where all slots get equally many tokens.
        """
        import torch

        model, width = self.loaded.model, max(map(len, ids))
        self.seen = max(starts) + width
        self.reserve(self.seen)
        padded = [row + [0] * (width - len(row)) for row in ids]
        tokens = torch.tensor(padded, device=model.device)
        # What padding writes lies after its row's end, where the next token overwrites it.
        self.places = torch.tensor(starts, device=model.device)[:, None] + torch.arange(
            width, device=model.device
        )
        self.slots = torch.tensor(list(slots), device=model.device)[:, None]
        self.view = slice(len(ids)) if isinstance(slots, range) else self.slots[:, 0]
        hidden = torch.arange(self.seen, device=model.device) > self.places[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=model.dtype, device=model.device)
        return model(
            input_ids=tokens,
            attention_mask=mask.masked_fill_(hidden, -torch.inf)[:, None],
            position_ids=self.places.clamp(max=self.loaded.window - 1),
            past_key_values=self,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def update(self, key: Any, value: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Stores what a layer computed, and gives it all that its slots hold."""
        for stores, new in zip(self.stores, (key, value), strict=True):
            if layer == len(stores):
                _, heads, _, size = new.shape
                stores.append(new.new_zeros(self.size, heads, self.capacity, size))
            stores[layer][self.slots, :, self.places] = new.transpose(1, 2)
        keys, values = (stores[layer][self.view, :, : self.seen] for stores in self.stores)
        return keys, values

    def reserve(self, length: int) -> None:
        """Makes every slot long enough. What is not yet written must be zero: 0 * NaN is NaN."""
        if length > self.capacity:
            self.capacity = -(-length // _ROOM) * _ROOM
            for stores in self.stores:
                for layer, old in enumerate(stores):
                    slots, heads, known, size = old.shape
                    stores[layer] = old.new_zeros(slots, heads, self.capacity, size)
                    stores[layer][:, :, :known] = old


def _take(waiting: deque[Row], count: int, taken: list[Row]) -> list[Row]:
    """Moves requests that somebody still waits for; before any work, so that none can get lost."""
    new: list[Row] = []
    while waiting and len(new) < count:
        row = waiting.popleft()
        if not row.future.cancelled():
            new.append(row)
    taken += new
    return new


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two sequences share from their beginning."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return bisect_left(range(length), True, key=lambda i: first[: i + 1] != second[: i + 1])


class Whole:
    """Batches through `model.generate`, for models whose layers keep anything but all keys."""

    def __init__(self, loaded: Loaded, size: int) -> None:
        from transformers import GenerationConfig

        self.loaded, self.size = loaded, size
        self.taken: list[Row] = []
        # The checkpoint's own sampling defaults must not add to what the request says.
        loaded.model.generation_config = GenerationConfig(pad_token_id=0)

    def turn(self, waiting: deque[Row]) -> None:
        """Answers as many waiting requests as fit, from beginning to end."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        rows = self.taken = _take(waiting, self.size, [])
        if not rows:
            return
        model, width = self.loaded.model, max(len(row.ids) for row in rows)

        def done() -> list[bool]:
            return [row.finish is not None or row.future.cancelled() for row in rows]

        def force(_: Any, logits: Any) -> Any:
            ended = done()
            live = [i for i, end in enumerate(ended) if not end]
            tokens = self.loaded.advance(logits[live], [rows[i] for i in live]) if live else []
            forced = torch.full_like(logits, -torch.inf)
            forced[:, 0] = 0  # padding, for rows that have ended
            for i, token in zip(live, tokens, strict=True):
                forced[i, 0], forced[i, token] = -torch.inf, 0
            return forced

        def stop(ids: Any, _: Any, **__: Any) -> Any:
            return torch.tensor(done(), device=ids.device)

        pads = [width - len(row.ids) for row in rows]
        model.generate(
            torch.tensor(
                [[0] * pad + row.ids for pad, row in zip(pads, rows, strict=True)],
                device=model.device,
            ),
            attention_mask=torch.tensor(
                [[0] * pad + [1] * (width - pad) for pad in pads], device=model.device
            ),
            do_sample=False,
            max_new_tokens=max(row.limit for row in rows),
            logits_processor=LogitsProcessorList([force]),
            stopping_criteria=StoppingCriteriaList([stop]),
        )
        self.taken = []


def choose_engine(loaded: Loaded, size: int) -> Slots | Whole:
    """Slots where the model is one for them, else whole batches.

    Every layer must keep all keys (no sliding window, no recurrent state). Beyond that the model
    itself is asked: it must give the logits that it gives without any of this.
    """
    import torch
    from transformers import AttentionInterface, DynamicCache
    from transformers.cache_utils import DynamicLayer

    model = loaded.model
    layers = DynamicCache(config=model.config).layers
    standard = layers and all(type(layer) is DynamicLayer for layer in layers)
    if not standard or model.config._attn_implementation not in ("sdpa", _ATTENTION):
        return Whole(loaded, size)
    AttentionInterface.register(_ATTENTION, _grouped_attention)
    model.set_attn_implementation("sdpa")
    texts = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15]]
    right = torch.stack(
        [model(torch.tensor([ids], device=model.device)).logits[0, -1] for ids in texts]
    )
    try:
        model.set_attn_implementation(_ATTENTION)
        trial = Slots(loaded, 2)
        trial.forward([1, 0], [ids[:-1] for ids in texts][::-1], [0, 0])
        got = trial.forward(range(2), [ids[-1:] for ids in texts], [len(ids) - 1 for ids in texts])
        allowed = max(8 * torch.finfo(model.dtype).eps, 1e-3) * right.norm()
        if (got - right).norm() <= allowed:
            return Slots(loaded, size)
    except Exception as error:  # an architecture that asks more of its cache
        del error
    model.set_attn_implementation("sdpa")
    return Whole(loaded, size)

"""A model that runs inside this process, through Hugging Face transformers.

Requests that wait at the same time are decoded together on one worker thread. Prompts that begin
alike (worked examples, a system prompt) pay for that beginning once; a request that is done makes
room for the next at once. The model is loaded by the first request, so a run that the response
store answers in full never loads it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import queue
import random
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synth import models
from synth.errors import UserError, nearest
from synth.record import digest
from synth.teachers.contract import Refused, Request, TeacherConfig

# What ends a turn in chat templates whose checkpoint names only the end of a document.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
_ATTENTION = "synth_grouped_sdpa"
_ROOM = 128  # tokens by which the key-value store grows
_WORTH_SHARING = 16  # tokens of common beginning for which a request waits for another's prefill
_PREFILL_TOKENS = 8192  # tokens, padding included, in one prefill


class Config(TeacherConfig):
    """A causal language model with a chat template."""

    model: str = Field(description="A hub id, folder, .gguf file, or package:NAME/FILE")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Of the weights; auto: as stored (GGUF: float32). bfloat16 is faster than "
        "float32 on a processor with AMX or AVX512-BF16, and slower on one without",
    )
    device: str | None = Field(None, description="A torch device; the GPU where there is one")
    batch_size: int = Field(32, ge=1, description="Requests decoded together; costs memory")
    trust_remote_code: bool = Field(False, description="Run code that lies beside the weights")
    chat_template: str | None = Field(
        None, description="Text of a Jinja chat template in place of the model's own"
    )


def build(config: Config, name: str) -> _Embedded:
    """The teacher; nothing heavy is loaded before its first request."""
    return _Embedded(config, name)


def check(config: Config) -> list[str]:
    """What this machine lacks to run the teacher; empty where nothing is missing."""
    try:
        models.require_transformers(f"the model {config.model}")
        _, gguf = models.locate(config.model)
    except UserError as error:
        return [str(error)]
    if gguf and importlib.util.find_spec("gguf") is None:
        return [f"the model {config.model} needs the package gguf: pip install gguf"]
    return []


class _Sampling(BaseModel):
    """The sampling parameters that this teacher knows; what is not given is as OpenAI has it."""

    model_config = ConfigDict(extra="forbid")

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = 0  # 0 and -1 stand for all, as in other engines
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | list[str] = []
    seed: int | None = None
    repetition_penalty: float = Field(default=1.0, gt=0)

    @property
    def stops(self) -> list[str]:
        return [s for s in ([self.stop] if isinstance(self.stop, str) else self.stop) if s]


def _read_sampling(given: dict[str, Any], name: str) -> _Sampling:
    for key in given:
        if key not in _Sampling.model_fields:
            hint = nearest(key, _Sampling.model_fields)
            raise UserError(f"teacher {name}: unknown sampling parameter {key!r}{hint}")
    try:
        return _Sampling.model_validate({k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"teacher {name}: sampling.{first['loc'][0]}: {first['msg']}") from error


@dataclass(eq=False, slots=True)
class _Row:
    """A request on its way: its tokens so far, and how it ends."""

    future: Future[dict[str, Any]]
    ids: list[int]
    prompt: int  # how many of the ids are the prompt
    limit: int  # how many may follow
    sampling: _Sampling
    rng: random.Random
    finish: str | None = None
    text: str = ""


class _Embedded:
    """The teacher as the event loop sees it; all the work is the worker thread's."""

    def __init__(self, config: Config, name: str) -> None:
        self._config, self._name = config, name
        self._inbox: _Inbox = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.identity: dict[str, Any] = {
            "kind": "transformers",
            "model": models.weights_identity(config.model),
            "dtype": config.dtype,
        }
        if config.chat_template is not None:
            self.identity["chat_template"] = digest(config.chat_template)

    async def complete(self, request: Request) -> dict[str, Any]:
        """Answers one request, together with all that wait at the same time."""
        sampling = _read_sampling(request.sampling, self._name)
        if self._thread is None:
            # A daemon, so that a run that dies without `close` does not hang.
            args = (self._config, self._name, self._inbox)
            self._thread = threading.Thread(target=_work, args=args, daemon=True)
            self._thread.start()
        future: Future[dict[str, Any]] = Future()
        self._inbox.put((request, sampling, future))
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Stops the worker after its current step; the model goes with it."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._inbox.put(None)
            await asyncio.to_thread(thread.join)


_Inbox = queue.SimpleQueue[tuple[Request, _Sampling, Future[dict[str, Any]]] | None]


def _work(config: Config, name: str, inbox: _Inbox) -> None:
    """The worker thread: takes requests in and decodes, until None comes in."""
    import torch

    loaded: _Loaded | None = None
    engine: _Slots | _Whole | None = None
    waiting: deque[_Row] = deque()
    while True:
        fresh = _drain(inbox, block=not waiting and not (engine and engine.taken))
        if None in fresh:
            for row in [*waiting, *(engine.taken if engine else [])]:
                row.future.cancel()
            for item in filter(None, fresh):
                item[2].cancel()
            return
        try:
            loaded = loaded or _Loaded(config, name)
        except Exception as error:
            for _, _, future in fresh:
                _settle(future, error)
            continue
        for request, sampling, future in fresh:
            try:
                waiting.append(loaded.row(request, sampling, future))
            except Exception as error:
                _settle(future, error)
        try:
            with torch.inference_mode():
                engine = engine or _engine(loaded, config.batch_size)
                engine.turn(waiting)
        except Exception as error:
            for row in engine.taken if engine else waiting:
                _settle(row.future, _explained(error, name))
            if engine is None:
                waiting.clear()
            # What the failed step left in the key-value store is not to be relied on.
            engine = None


def _drain(inbox: _Inbox, block: bool) -> list[Any]:
    found = [inbox.get()] if block else []
    while not inbox.empty():  # nobody else takes from it
        found.append(inbox.get())
    return found


def _settle(future: Future[dict[str, Any]], outcome: dict[str, Any] | Exception) -> None:
    try:
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:  # cancelled by whoever asked
        pass


def _explained(error: Exception, name: str) -> Exception:
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
        return UserError(f"teacher {name}: out of memory; lower batch_size or max_tokens")
    return error


class _Loaded:
    """The model and its tokenizer: from a request to tokens, and from tokens to a response."""

    def __init__(self, config: Config, name: str) -> None:
        self.name, self.named = name, config.model
        self.tokenizer = models.load_tokenizer(config.model, config.trust_remote_code)
        self.tokenizer.chat_template = config.chat_template or self.tokenizer.chat_template
        if not self.tokenizer.chat_template:
            raise UserError(
                f"teacher {name}: the tokenizer of {config.model} has no chat template; "
                "use a model that was trained to chat (an Instruct or Chat version)"
            )
        try:
            self.model = models.load_model(
                config.model, config.dtype, config.device, config.trust_remote_code
            )
        except RuntimeError as error:
            first = str(error).split("\n")[0]
            raise UserError(f"teacher {name}: cannot load {config.model}: {first}") from error
        text_config = self.model.config.get_text_config(decoder=True)
        self.window: int = getattr(text_config, "max_position_embeddings", None) or 1 << 30
        self.ends = {self.tokenizer.eos_token_id}
        for source in (self.model.generation_config, text_config):
            ends = getattr(source, "eos_token_id", None)
            self.ends.update(ends if isinstance(ends, list) else [ends])
        added = self.tokenizer.get_added_vocab()
        self.ends.update(added[end] for end in _TURN_ENDS if end in added)

    def row(self, request: Request, sampling: _Sampling, future: Future[dict[str, Any]]) -> _Row:
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
            raise Refused(f"prompt too long: {len(ids)} tokens in a window of {self.window}")
        # Chance hangs on the request alone, never on who else is in the batch.
        seed = digest([request.messages, request.sampling, request.sample])
        limit = min(sampling.max_tokens or room, room)
        return _Row(future, list(ids), len(ids), limit, sampling, random.Random(seed))

    def take(self, row: _Row, token: int) -> None:
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
            _settle(row.future, {"model": self.named, "choices": [choice], "usage": usage})

    def _stopped(self, row: _Row, new: list[int]) -> str | None:
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

    def advance(self, logits: Any, rows: Sequence[_Row]) -> list[int]:
        """Chooses and gives the next token of each row."""
        tokens = _choose(logits, rows)
        for row, token in zip(rows, tokens, strict=True):
            self.take(row, token)
        return tokens


def _choose(logits: Any, rows: Sequence[_Row]) -> list[int]:
    """The next token of each row, by its own parameters and its own chance."""
    import torch

    logits = logits.float()
    for i, row in enumerate(rows):
        if row.sampling.repetition_penalty != 1:
            seen = torch.tensor(sorted(set(row.ids)), device=logits.device)
            score, by = logits[i, seen], row.sampling.repetition_penalty
            logits[i, seen] = torch.where(score < 0, score * by, score / by)
    kinds: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        cuts = row.sampling.top_k > 0 or row.sampling.top_p < 1
        kind = "greedy" if row.sampling.temperature < 1e-5 else "cut" if cuts else "free"
        kinds.setdefault(kind, []).append(i)
    chosen = [0] * len(rows)
    for kind, index in kinds.items():
        part = logits[index] if len(kinds) > 1 else logits
        if kind == "greedy":
            picked = part.argmax(-1)
        else:
            column = _columns([rows[i] for i in index], part)
            order = None
            weights = (part / column["temperature"]).softmax(-1)
            if kind == "cut":
                weights, order = _nucleus(weights, column["top_k"], column["top_p"])
            total = weights.cumsum(-1)
            picked = torch.searchsorted(total, column["chance"] * total[:, -1:], right=True)
            picked = (picked if order is None else order.gather(-1, picked)).squeeze(-1)
        for i, token in zip(index, picked.tolist(), strict=True):
            chosen[i] = token
    return chosen


def _columns(rows: Sequence[_Row], like: Any) -> dict[str, Any]:
    """The rows' parameters as columns beside their logits."""
    values = {
        "temperature": [row.sampling.temperature for row in rows],
        "top_p": [row.sampling.top_p for row in rows],
        "top_k": [max(row.sampling.top_k, 0) or like.shape[-1] for row in rows],
        # Kept off 1, which float32 would round it to, and which lies past the last token.
        "chance": [min(row.rng.random(), 1 - 1e-6) for row in rows],
    }
    return {key: like.new_tensor(column).unsqueeze(-1) for key, column in values.items()}


def _nucleus(weights: Any, top_k: Any, top_p: Any) -> tuple[Any, Any]:
    """Probabilities in falling order, zero outside top_k and then top_p; and their tokens."""
    import torch

    vocabulary = weights.shape[-1]
    width = min(1024, vocabulary)
    best, order = weights.topk(width)
    # To sort a whole vocabulary takes as long as half a step of a small model; it is seldom needed.
    if not bool(((top_k <= width) | (best.sum(-1, keepdim=True) >= top_p)).all()):
        best, order = weights.topk(vocabulary)
    best = best * (torch.arange(best.shape[-1], device=best.device) < top_k)
    mass = torch.where(top_k < vocabulary, best.sum(-1, keepdim=True), 1.0)
    before = best.cumsum(-1) - best
    return best * (before < top_p * mass), order


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
        given: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return given
    grouped = query.reshape(batch, key.shape[1], -1, size)
    found = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling")
    )
    return found.reshape(batch, 1, heads, value.shape[-1]), None


class _Slots:
    """Continuous batching over one preallocated key-value store with a slot for each row.

    A slot keeps the keys and values of its last sequence after that is done. A new request copies
    those of the slot whose sequence begins most like its own, and computes only what follows.
    The layers of the model see this object in place of transformers' Cache, and call `update`.
    """

    def __init__(self, loaded: _Loaded, size: int) -> None:
        self.loaded, self.size = loaded, size
        self.taken: list[_Row] = []  # all that it has to answer
        self.rows: list[_Row | None] = []  # the slots in use; None is a hole
        self.kept: list[list[int]] = [[] for _ in range(size)]  # tokens whose keys a slot holds
        self.stores: tuple[list[Any], list[Any]] = ([], [])  # keys, values of each layer
        self.capacity = self.seen = 0
        # Where the tokens now being computed go, and what their rows may look at.
        self.slots: Any = None
        self.places: Any = None
        self.view: Any = None

    def turn(self, waiting: deque[_Row]) -> None:
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

    def _admit(self, new: list[_Row]) -> None:
        if not new:
            return
        self.rows += [None] * (len(self.taken) - len(self.rows))
        self.reserve(max(len(row.ids) + min(row.limit, _ROOM) for row in new))
        while new:
            wave: list[int] = []
            later: list[_Row] = []
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


def _take(waiting: deque[_Row], count: int, taken: list[_Row]) -> list[_Row]:
    """Moves requests that somebody still waits for; before any work, so that none can get lost."""
    new: list[_Row] = []
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


class _Whole:
    """Batches through `model.generate`, for models whose layers keep anything but all keys."""

    def __init__(self, loaded: _Loaded, size: int) -> None:
        from transformers import GenerationConfig

        self.loaded, self.size = loaded, size
        self.taken: list[_Row] = []
        # The checkpoint's own sampling defaults must not add to what the request says.
        loaded.model.generation_config = GenerationConfig(pad_token_id=0)

    def turn(self, waiting: deque[_Row]) -> None:
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


def _engine(loaded: _Loaded, size: int) -> _Slots | _Whole:
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
        return _Whole(loaded, size)
    AttentionInterface.register(_ATTENTION, _grouped_attention)
    model.set_attn_implementation("sdpa")
    texts = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15]]
    right = torch.stack(
        [model(torch.tensor([ids], device=model.device)).logits[0, -1] for ids in texts]
    )
    try:
        model.set_attn_implementation(_ATTENTION)
        trial = _Slots(loaded, 2)
        trial.forward([1, 0], [ids[:-1] for ids in texts][::-1], [0, 0])
        got = trial.forward(range(2), [ids[-1:] for ids in texts], [len(ids) - 1 for ids in texts])
        allowed = max(8 * torch.finfo(model.dtype).eps, 1e-3) * right.norm()
        if (got - right).norm() <= allowed:
            return _Slots(loaded, size)
    except Exception as error:  # an architecture that asks more of its cache
        del error
    model.set_attn_implementation("sdpa")
    return _Whole(loaded, size)

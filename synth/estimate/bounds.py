"""What a run may cost where nothing of it is measured yet: bounds on its calls and their size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from synth.config.run import Run
from synth.core.record import Message, Task
from synth.estimate.inventory import COUNTED, Question, StoreInventory
from synth.estimate.ranges import MIN_SAMPLE, Range, exactly, mean_of, ratio_of
from synth.generate.routing import Router
from synth.store import usage as ledger
from synth.teachers.base import TeacherConfig

# Tokens of a text where no tokenizer and no answer of the teacher's says: by its characters.
_OF_ASCII = Range(1 / 7, 1 / 4, 1 / 2)
_OF_OTHER = Range(1 / 3, 1.0, 3.0)
# Another tokenizer than the teacher's, and the chat template around the messages.
_OF_OTHER_TOKENIZER = Range(0.7, 1.0, 1.6)
# Bytes in the store: of an answer's token, of a character of the request, and of one soft label.
_OF_TOKEN, _OF_CHARACTER, _OF_LABEL = Range(0.5, None, 8), Range(0.1, None, 3), Range(4, None, 9)


class CostBounds:
    """Least and most of each column of `COUNTED`, for each teacher.

    `count_tokens` counts by some tokenizer, where one is at hand; `notes` says by what prompts were
    counted, where the teacher's own counts do not say.
    """

    def __init__(
        self,
        run: Run,
        options: dict[str, TeacherConfig],
        inventory: StoreInventory,
        count_tokens: Callable[[str], int] | None,
    ) -> None:
        assert run.generate is not None
        self._generate, self._seed, self._inventory = run.generate, run.seed, inventory
        self._count_tokens = count_tokens
        self.notes: list[str] = []
        self._route = Router(
            run.generate.route,
            inventory.names,
            {name: option.weight for name, option in options.items()},
            {name: option.samples for name, option in options.items() if option.samples},
        )

    def of(self, name: str, open_: Sequence[Question]) -> dict[str, Range]:
        """Return what a teacher's answers to the open questions may come to."""
        calls = self._calls(name, open_)
        most_tokens = Range(0, None, self._inventory.limits()[-1])
        completion = self._mean(name, "completion_tokens") or most_tokens
        each = {
            "calls": exactly(1),
            "prompt_tokens": self._prompt_tokens(name),
            "completion_tokens": completion,
            "bytes": self._mean(name, "size") or self._size(completion),
            "latency": self._mean(name, "latency") or Range(0, None, None),
        }
        return {column: calls * each[column] for column in COUNTED}

    def longest(self, name: str) -> float | None:
        """Return the most seconds that a question may take, as far as the teacher's answers say."""
        latencies = [entry.latency for entry in self._inventory.history[name]]
        if len(latencies) < MIN_SAMPLE:
            return None
        return max(latencies) * self._generate.samples.max

    def _calls(self, name: str, open_: Sequence[Question]) -> Range:
        low = high = 0
        for question in open_:
            slots = list(self._route.order(question.task.question, self._generate.samples.max))
            have = question.has[name]["calls"] if name in question.has else 0
            asked = [slot.teacher == name for slot in slots]
            possible = len(slots) if self._generate.route == "fallback" else sum(asked)
            low += max(0, sum(asked[: self._first_wave(question.task)]) - have)
            high += max(0, possible - have)
        if self._generate.truncation.policy in ("raise_max_tokens", "continue"):
            high *= 1 + self._generate.truncation.times
        return exactly(low) if low == high else Range(low, None, high)

    def _first_wave(self, task: Task) -> int:
        samples, vote = self._generate.samples, self._generate.vote
        if samples.until_verified is None:
            return samples.max
        wanted = max(samples.until_verified, samples.start or 0)
        return max(wanted, vote.agree) if vote and task.answer is None else wanted

    def _mean(self, name: str, column: str) -> Range | None:
        """Return the mean over the teacher's stored answers to such prompts, of enough of them."""
        values = [getattr(entry, column) for entry in self._inventory.history[name]]
        values = [float(value) for value in values if value is not None]
        return mean_of(values, self._seed) if len(values) >= MIN_SAMPLE else None

    def _prompt_tokens(self, name: str) -> Range:
        """Return tokens of a prompt: by the teacher's counts, by a tokenizer, or by characters."""
        rendered = [messages for _, messages in self._inventory.rendered]
        length = self._mean_length([_letters(messages) for messages in rendered])
        counted = [e for e in self._inventory.history[name] if e.prompt_tokens is not None]
        if len(counted) >= MIN_SAMPLE:
            tokens = [float(entry.prompt_tokens or 0) for entry in counted]
            letters = [float(max(1, _letters(entry.request["messages"]))) for entry in counted]
            return length * ratio_of(tokens, letters, self._seed)
        if (count := self._count_tokens) is not None:
            self._note("prompts: by another tokenizer than the teacher's, times 0.7 to 1.6")
            counts = [sum(count(message["content"]) for message in ms) for ms in rendered]
            return self._mean_length(counts) * _OF_OTHER_TOKENIZER
        self._note(
            "prompts: by their characters, 2 to 7 a token (4 expected); of other scripts 1/3 to 3"
        )
        text = "".join(message["content"] for messages in rendered for message in messages)
        share = sum(letter.isascii() for letter in text) / max(1, len(text))
        return length * (exactly(share) * _OF_ASCII + exactly(1 - share) * _OF_OTHER)

    def _mean_length(self, lengths: Sequence[int]) -> Range:
        """Return the mean over all prompts, of which some were drawn."""
        if len(lengths) == len(self._inventory.questions):
            return exactly(sum(lengths) / len(lengths))
        return mean_of([float(length) for length in lengths], self._seed)

    def _size(self, completion: Range) -> Range:
        """Return the bytes of a response in the store."""
        letters = max(_letters(messages) for _, messages in self._inventory.rendered)
        size = completion * _OF_TOKEN + exactly(letters) * _OF_CHARACTER
        if width := self._generate.sampling.top_logprobs:
            size = size + completion * exactly(width + 1) * _OF_LABEL
        return size + exactly(ledger.ROW_BYTES)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _letters(messages: Sequence[Message]) -> int:
    return sum(len(message["content"]) for message in messages)

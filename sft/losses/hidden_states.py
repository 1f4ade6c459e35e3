"""Intermediate layers: the student's states and attention relations learn from its teacher's.

Every loss is a sum over tokens, each with a weight; the weights of a batch add up to its number of
labelled tokens. So it is divided by the same number as the cross-entropy, and gradient
accumulation and several processes give the step of one big batch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils.checkpoint import checkpoint

from sft.models.layers import Pairs, attention_inputs, bare, decoder_layers, layer_pairs, watch
from synth.config.distillation import HiddenStates
from synth.core.errors import UserError

NAME = "_hidden_projections"
FILE = "hidden_projections.safetensors"
# What was captured: of which model, which kind (state, q, k or v), which layer.
Captured: TypeAlias = dict[tuple[str, str, int], Tensor]
# Relations of one chunk; they grow with the square of the length.
_CHUNK_BYTES = 64 * 2**20


# --- losses: pure functions -----------------------------------------------------------------------


def mse(student: Tensor, teacher: Tensor, relative: bool = False) -> Tensor:
    """Squared distance of states (tokens, width), mean over the width, (tokens,) in float32.

    After TinyBERT (arXiv 1909.10351, equation 8). `relative` divides by the mean square of the
    teacher's state: 0 where equal, 1 for a student of zeros.
    """
    teacher = teacher.float()
    distance = (student.float() - teacher).square().mean(-1)
    return distance / teacher.square().mean(-1).clamp(min=1e-12) if relative else distance


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine between states, (tokens,) (DistilBERT, arXiv 1910.01108, section 2)."""
    return 1 - cosine_similarity(student.float(), teacher.float(), dim=-1)


def relation(
    student: Tensor,
    teacher: Tensor,
    heads: int,
    weights: Tensor,
    documents: Tensor,
    chunk_bytes: int = _CHUNK_BYTES,
) -> Tensor:
    """KL(teacher || student) of relations softmax(A A^T / sqrt(d)), mean over relation heads.

    MiniLMv2 (arXiv 2012.15828, equations 2 to 6), on a causal model: a token relates to itself and
    to the tokens before it in its document. Vectors are cut anew into `heads` pieces, so the
    numbers of attention heads and the widths of both models may differ.

    Args:
        student: Queries, keys or values of a layer, heads side by side, (batch, length, width).
        teacher: The same of the teacher, (batch, length, other width).
        heads: Relation heads; divides both widths.
        weights: Weight of each token in the sum, (batch, length).
        documents: See `document_numbers`.
        chunk_bytes: About how much memory the relations may take at a time.
    """
    total = torch.zeros((), dtype=torch.float32, device=student.device)
    length = student.shape[1]
    rows = max(1, chunk_bytes // (4 * heads * length))
    order = torch.arange(length, device=student.device)
    for learned, target, weight, document in zip(student, teacher, weights, documents, strict=True):
        learned = learned.float().unflatten(-1, (heads, -1))
        target = target.detach().float().unflatten(-1, (heads, -1))
        for chunk in weight.nonzero().flatten().split(rows):
            if not len(chunk):
                continue
            end = int(chunk[-1]) + 1
            visible = order[:end] <= chunk[:, None]
            visible &= document[:end] == document[chunk][:, None]
            inputs = (learned[:end], target[:end], chunk, visible, weight[chunk])
            # Computed again on the way back, else the relations of all chunks would be kept.
            total = total + checkpoint(_rows_kl, *inputs, use_reentrant=False)
    return total


def _rows_kl(
    student: Tensor, teacher: Tensor, rows: Tensor, visible: Tensor, weights: Tensor
) -> Tensor:
    def log_relation(vectors: Tensor) -> Tensor:
        scores = torch.einsum("rhd,khd->hrk", vectors[rows], vectors)
        scores = scores / math.sqrt(vectors.shape[-1])
        return scores.masked_fill(~visible, -math.inf).log_softmax(-1)

    log_q, log_p = log_relation(student), log_relation(teacher)
    gap = torch.where(visible, log_p - log_q, 0.0)
    return ((log_p.exp() * gap).sum(-1).mean(0) * weights).sum()


def document_numbers(
    shape: Sequence[int], attention_mask: Tensor | None = None, position_ids: Tensor | None = None
) -> Tensor:
    """Numbers the document of its row that each token belongs to, -1 for padding, (batch, length).

    `attention_mask` is 0 at padding; `position_ids` start again at 0 with each document of a row.
    """
    if position_ids is None:
        device = None if attention_mask is None else attention_mask.device
        numbers = torch.zeros(tuple(shape), dtype=torch.long, device=device)
    else:
        numbers = (position_ids == 0).long().cumsum(-1).expand(tuple(shape))
    return numbers if attention_mask is None else numbers.masked_fill(attention_mask == 0, -1)


def token_weights(labels: Tensor, documents: Tensor, positions: str = "labelled") -> Tensor:
    """Weighs each token's state, (batch, length); the sum is the number of labels.

    With the positions `labelled` it is 1 where the next token has a label, as in the cross-entropy;
    with `all`, the labels of a document are spread evenly over all its tokens.
    """
    weights = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
    same = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
    weights[:, :-1] = ((labels[:, 1:] != -100) & same).float()
    if positions == "labelled":
        return weights
    batch, length = labels.shape
    # Padding has a bin of its own, the first of each row.
    row = torch.arange(batch, device=labels.device)[:, None] * (length + 2)
    bins = (documents + 1 + row).flatten()
    labelled = torch.bincount(bins, weights.flatten())
    size = torch.bincount(bins)
    spread = (labelled / size.clamp(min=1))[bins].view(batch, length).float()
    return spread.masked_fill(documents < 0, 0.0)


# --- a student and its teacher --------------------------------------------------------------------


class HiddenStateLoss:
    """The intermediate layers of a student and its teacher.

    Build it from the bare student, build the trainer (and adapters), then `register`; the
    optimizer that is made after that trains the projections too.

    Args:
        config: The layers, the losses and their weights.
        student: The model that learns.
        teacher: The model that it learns from; same tokenizer, any width and depth.
        seed: Of the projections' first values.

    Raises:
        UserError: A layer that is not there, no list of layers, no queries, keys and values where
            relations are asked for, relation heads that do not divide the widths, or no loss.
    """

    def __init__(self, config: HiddenStates, student: Any, teacher: Any, seed: int = 0) -> None:
        self.config = config
        self.models = {"student": bare(student), "teacher": bare(teacher)}
        depth, teacher_depth = (len(decoder_layers(model)) for model in self.models.values())
        if not (config.mse or config.cosine or config.relations):
            raise UserError("hidden_states: mse, cosine and relations are all 0: nothing to learn")
        self.pairs: Pairs = []
        if config.mse or config.cosine:
            self.pairs = layer_pairs(config.layers, depth, teacher_depth, config.embeddings)
        self.relation_pair = config.relation_layers or (depth, teacher_depth)
        if config.relations:
            layer_pairs([self.relation_pair], depth, teacher_depth)
            self.relation_heads = self._relation_heads()
        self.projections = self._projections(seed)
        self._captured: Captured = {}

    def register(self, student: Any) -> None:
        """Makes the projections part of the student, to be trained, moved and saved with it.

        Adapters freeze what is there when they come, so this belongs after them, and before the
        optimizer is built.
        """
        if self.projections is not None:
            model = bare(student)
            model.add_module(NAME, self.projections.to(model.device).requires_grad_())

    def load(self, folder: Path) -> None:
        """Reads the projections of a checkpoint into the registered ones."""
        if self.projections is not None:
            self.projections.load_state_dict(load_file(folder / FILE))

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """Keeps what the wanted layers give while student and teacher run, each once.

        Go backward after it has ended, else what checkpointing computes again is kept once more.

        Raises:
            UserError: Gradient checkpointing is reentrant.
        """
        self._captured = {}
        with contextlib.ExitStack() as hooks:
            for index, (who, model) in enumerate(self.models.items()):
                layers = decoder_layers(model)
                for layer in sorted({pair[index] for pair in self.pairs}):
                    keep = self._keep((who, "state", layer))
                    hooks.enter_context(watch(layers, layer, keep))
                if self.config.relations:
                    layer = self.relation_pair[index]
                    for kind, module, cut in attention_inputs(model, layer):
                        keep = self._keep((who, kind, layer), cut)
                        hook = module.register_forward_hook(lambda m, a, out, k=keep: k(out))
                        hooks.enter_context(hook)
            yield

    def loss(
        self,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Sums the losses over what was captured last, which is then let go, a float32 scalar.

        States count with their mean over pairs of layers (TinyBERT adds them up), relations with
        the sum of those among queries, keys and values.

        Args:
            labels: The tokens, -100 where there is no loss, (batch, length).
            attention_mask: 0 at padding, (batch, length).
            position_ids: Needed where rows are packed: they start again at 0 with each document.

        Raises:
            UserError: The two models did not see the tokens of these labels.
        """
        captured, self._captured = self._captured, {}
        documents = document_numbers(labels.shape, attention_mask, position_ids)
        documents = documents.to(labels.device)
        weights = token_weights(labels, documents, self.config.positions)
        for (who, _, _), value in captured.items():
            if value.shape[:2] != labels.shape:
                raise UserError(
                    f"hidden_states: the {who} saw {tuple(value.shape[:2])} tokens (batch, length) "
                    f"and the labels have {tuple(labels.shape)}; states are compared token by "
                    "token, so both models need one tokenizer and the same batch"
                )
        with torch.autocast(labels.device.type, enabled=False):
            return self._sum(captured, weights, documents)

    def _sum(self, captured: Captured, weights: Tensor, documents: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=weights.device)
        where = weights > 0
        for index, (layer, teacher_layer) in enumerate(self.pairs):
            learned = captured["student", "state", layer][where]
            target = captured["teacher", "state", teacher_layer].detach()
            target = target.to(learned.device)[where]
            if learned.shape[-1] != target.shape[-1]:
                learned = learned.float() @ self.projections[index].T
            each = torch.zeros_like(weights[where])
            if self.config.mse:
                each = each + self.config.mse * mse(learned, target, self.config.relative)
            if self.config.cosine:
                each = each + self.config.cosine * cosine(learned, target)
            total = total + (each * weights[where]).sum() / len(self.pairs)
        if self.config.relations:
            for kind in "qkv":
                learned = captured["student", kind, self.relation_pair[0]]
                target = captured["teacher", kind, self.relation_pair[1]].to(learned.device)
                total = total + self.config.relations * relation(
                    learned, target, self.relation_heads, weights, documents
                )
        return total

    def _keep(
        self, key: tuple[str, str, int], cut: slice = slice(None)
    ) -> Callable[[Tensor], None]:
        wants_gradient = key[0] == "student" and torch.is_grad_enabled()

        def keep(value: Tensor) -> None:
            if wants_gradient and not torch.is_grad_enabled():
                raise UserError(
                    "hidden_states: gradient checkpointing must not be reentrant, no gradient "
                    "passes there; set gradient_checkpointing_kwargs: {use_reentrant: false}"
                )
            self._captured[key] = value[..., cut]

        return keep

    def _projections(self, seed: int) -> Any:
        """One matrix (teacher's width, student's width) a pair, or None where widths are equal.

        They are bare parameters, no linear layers, so that `all-linear` adapters pass them by.
        """
        narrow, wide = (m.config.get_text_config().hidden_size for m in self.models.values())
        looked_at = self.models["student"].device.type == "meta"  # it has no weights to learn
        if narrow == wide or not self.pairs or looked_at:
            return None
        matrices = []
        generator = torch.Generator().manual_seed(seed)
        for _ in self.pairs:
            matrix = torch.eye(wide, narrow)
            if self.config.projection == "orthogonal":
                matrix = torch.nn.init.orthogonal_(matrix, generator=generator)
            matrices.append(torch.nn.Parameter(matrix))
        return torch.nn.ParameterList(matrices)

    def _relation_heads(self) -> int:
        """Relation heads that divide all widths."""
        widths = []
        for index, model in enumerate(self.models.values()):
            layer = self.relation_pair[index]
            widths += [cut.stop - cut.start for _, _, cut in attention_inputs(model, layer)]
        common = math.gcd(*widths)
        heads = self.config.relation_heads
        if heads is None:
            heads = self.models["teacher"].config.get_text_config().num_attention_heads
            return max(h for h in range(1, heads + 1) if common % h == 0)
        if common % heads:
            fitting = [str(h) for h in range(1, min(common, 512) + 1) if common % h == 0]
            raise UserError(
                f"hidden_states.relation_heads: {heads} does not divide the widths of queries, "
                f"keys and values ({', '.join(map(str, sorted(set(widths))))}); these do: "
                f"{', '.join(fitting)}"
            )
        return heads


def strip(model: Any) -> Any:
    """Takes the projections off a student, before it is saved, and returns the model."""
    bare(model)._modules.pop(NAME, None)
    return model

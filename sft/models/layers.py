"""Layers of decoders: where they lie, which learns from which, and students that keep a part.

Layers are counted from 1, as papers do; layer 0 is what the first layer gets (the embeddings).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.nn import ModuleList

from synth.core.errors import UserError, nearest

Pairs = list[tuple[int, int]]
_MAPS = ("uniform", "skip", "last")
# Lists of a config that are never one entry a layer, however long they happen to be.
_NOT_PER_LAYER = ("architectures", "token_id", "token_ids")
# Families whose qkv_proj gives all queries, then all keys, then all values. Others of that name
# (CodeGen, MiniMax) mix them head by head.
_FUSED = ("phi3", "phi4_multimodal")


def bare(model: Any) -> Any:
    """Takes off the wrappers that adapters and data parallelism put around a model."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_layers(model: Any) -> Any:
    """Finds the decoder layers of a causal language model, a `ModuleList` in order.

    Raises:
        UserError: The decoder has no list of as many layers as its config says.
    """
    model = bare(model)
    depth = model.config.get_text_config().num_hidden_layers
    for child in model.get_decoder().children():
        if isinstance(child, ModuleList) and len(child) == depth:
            return child
    raise UserError(
        f"the layers of {type(model).__name__} are not found: its decoder holds no list of "
        f"{depth} layers. Layers can be dropped or learned from only where there is one"
    )


def watch(layers: Any, layer: int, keep: Callable[[Any], None]) -> Any:
    """Hooks `keep` to the states a layer gives; of layer 0, to what the first layer gets."""
    if layer == 0:

        def before(module: Any, args: Any, kwargs: Any) -> None:
            keep(args[0] if args else kwargs["hidden_states"])

        return layers[0].register_forward_pre_hook(before, with_kwargs=True)

    def after(module: Any, args: Any, output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)

    return layers[layer - 1].register_forward_hook(after)


def attention_inputs(model: Any, layer: int) -> list[tuple[str, Any, slice]]:
    """Finds the linear layers that give a layer's queries, keys and values, and which part does.

    What they give comes before norms and rotation, so it holds no positions.

    Raises:
        UserError: The layer has none under the names known here, or of another build.
    """
    if layer < 1:
        raise UserError("relation_layers: the embeddings (layer 0) have no queries and keys")
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries = size * config.num_attention_heads
    keys = size * (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    modules = {
        name.rpartition(".")[2]: module
        for name, module in decoder_layers(model)[layer - 1].named_modules()
    }
    apart = [modules.get(f"{kind}_proj") for kind in "qkv"]
    # A q_proj of another width holds more than queries (a gate, in Qwen3-Next).
    if all(apart) and [m.out_features for m in apart if m] == [queries, keys, keys]:
        widths = (slice(0, queries), slice(0, keys), slice(0, keys))
        return list(zip("qkv", apart, widths, strict=True))
    if fused := modules.get("qkv_proj") if config.model_type in _FUSED else None:
        bounds = pairwise((0, queries, queries + keys, queries + 2 * keys))
        return [(kind, fused, slice(*bound)) for kind, bound in zip("qkv", bounds, strict=True)]
    raise UserError(
        f"relations: layer {layer} of {type(model).__name__} has no q_proj, k_proj and v_proj of "
        "the usual build; set relations: 0, or relation_layers to layers that have"
    )


def layer_pairs(
    layers: str | Sequence[Sequence[int]], student: int, teacher: int, embeddings: bool = False
) -> Pairs:
    """Pairs each layer of the student that learns with one of the teacher's.

    - `uniform`: layer i of n from layer round(i * N / n) of N, halves up: the map of TinyBERT
      (Jiao et al. 2020, arXiv 1909.10351, section 4.1), for any two depths.
    - `skip`: the same without the last layer, and `last`: the layers below the teacher's last one
      (PKD-skip and PKD-last, Sun et al. 2019, arXiv 1908.09355, section 3.2, which leave the last
      layer to the soft labels).
    - Pairs `[[student, teacher], ...]` as they are.

    `student` and `teacher` are the numbers of layers; with `embeddings`, layer 0 learns from
    layer 0 as well.

    Raises:
        UserError: No such map, a layer that is not there, a layer of the student given twice, or
            nothing to learn.

    >>> layer_pairs("uniform", 3, 12)
    [(1, 4), (2, 8), (3, 12)]
    >>> layer_pairs("last", 6, 12)
    [(1, 7), (2, 8), (3, 9), (4, 10), (5, 11)]
    """
    if not isinstance(layers, str):
        for pair in layers:
            if len(pair) != 2 or not all(type(layer) is int for layer in pair):
                raise UserError(f"layers: {pair!r} is no pair of layer numbers [student, teacher]")
        pairs = [(pair[0], pair[1]) for pair in layers]
    elif layers not in _MAPS:
        raise UserError(f"layers: no map {layers!r}{nearest(layers, _MAPS)}")
    elif layers == "last":
        pairs = [(i, teacher - student + i) for i in range(1, student)]
    else:
        top = student if layers == "uniform" else student - 1
        pairs = [
            (i, max(1, (2 * i * teacher + student) // (2 * student))) for i in range(1, top + 1)
        ]
    if embeddings and (0, 0) not in pairs:
        pairs.insert(0, (0, 0))
    if not pairs:
        raise UserError(f"layers: {layers} gives no pair for a student of {student} layers")
    learners = [learner for learner, _ in pairs]
    for learner, source in pairs:
        for who, layer, depth in (("student", learner, student), ("teacher", source, teacher)):
            if not 0 <= layer <= depth:
                raise UserError(
                    f"layers: the {who} has no layer {layer} (pair {[learner, source]}); it has "
                    f"layers 1 to {depth}, and 0 for the embeddings"
                )
    for layer in learners:
        if learners.count(layer) > 1:
            raise UserError(f"layers: layer {layer} of the student is given twice")
    return pairs


def kept_layers(keep: int | Sequence[int], number: int) -> list[int]:
    """Lists the layers that a student takes from its teacher's `number`, counted from 1.

    A count takes as many, evenly spread, the first and the last among them: six of twelve are
    those of DistilBERT's initialisation (Sanh et al. 2019, arXiv 1910.01108, section 3). A list
    names them, in rising order.

    Raises:
        UserError: Too few, too many, out of order, or a layer that is not there.

    >>> kept_layers(6, 12)
    [1, 3, 5, 8, 10, 12]
    """
    if isinstance(keep, int):
        if not 2 <= keep <= number:
            raise UserError(
                f"student.layers: {keep} layers of {number}; give 2 to {number}, or a list"
            )
        steps = keep - 1
        return [1 + (2 * i * (number - 1) + steps) // (2 * steps) for i in range(keep)]
    kept = list(keep)
    for layer in kept:
        if type(layer) is not int or not 1 <= layer <= number:
            raise UserError(
                f"student.layers: the teacher has no layer {layer!r}; it has layers 1 to {number}"
            )
    if not kept or any(a >= b for a, b in pairwise(kept)):
        raise UserError(
            f"student.layers: {kept} is not a list of layers in rising order, each once"
        )
    return kept


def take(model: Any, keep: int | Sequence[int]) -> Any:
    """Makes a student of a teacher: fewer layers, all else (embeddings, norms, head) copied.

    The student is a fresh model of the teacher's class and a shorter config, so that what is
    trained is what `from_pretrained` builds from the saved folder. The teacher stays as it is.

    Raises:
        UserError: See `kept_layers` and `decoder_layers`; or the weights are quantised, carry
            adapters, or the family gives a layer another build in another place.
    """
    if hasattr(model, "get_base_model") or getattr(model, "is_quantized", False):
        raise UserError(
            "student.layers: a student is made from plain weights; merge the adapters, or load the "
            "teacher without quantisation"
        )
    layers = decoder_layers(model)
    kept = kept_layers(keep, len(layers))
    prefix = next(name for name, module in model.named_modules() if module is layers) + "."
    new_index = {str(layer - 1): index for index, layer in enumerate(kept)}
    weights = {}
    for name, weight in model.state_dict().items():
        if name.startswith(prefix):
            index, _, rest = name.removeprefix(prefix).partition(".")
            if index not in new_index:
                continue
            name = f"{prefix}{new_index[index]}.{rest}"
        weights[name] = weight
    refused = UserError(
        f"student.layers: layers of {type(model).__name__} depend on where they stand, and those "
        f"that are left ({kept}) would not be what they were; give a list that keeps the pattern"
    )
    try:
        with torch.random.fork_rng():  # what is drawn here is overwritten
            student = type(model)._from_config(_shorter(model.config, kept), dtype=model.dtype)
        student.load_state_dict(weights)
    except (ValueError, RuntimeError, IndexError, KeyError) as error:
        raise refused from error
    student.tie_weights()
    for index, layer in enumerate(decoder_layers(student)):
        if dict(_build(layer)) != dict(_build(layers[kept[index] - 1])):
            raise refused
    student.generation_config = copy.deepcopy(model.generation_config)
    return student.to(model.device).eval()


def _shorter(config: Any, kept: Sequence[int]) -> Any:
    """The config of a model that has these layers alone, lists of one entry a layer cut alike."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    depth = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        per_layer = isinstance(value, list | tuple) and len(value) == depth
        if per_layer and not name.endswith(_NOT_PER_LAYER):
            setattr(text, name, [value[layer - 1] for layer in kept])
    text.num_hidden_layers = len(kept)
    return config


def _build(layer: Any) -> Iterator[tuple[str, Any]]:
    """What a layer is beside its weights: the classes of its parts and their plain settings.

    A family that chooses by number (a sliding window in every other layer, no rotation in every
    fourth) shows the choice here.
    """
    for path, module in layer.named_modules():
        yield path, type(module)
        for name, value in vars(module).items():
            numbered = name.startswith("layer_") and isinstance(value, int)
            passing = name in ("training", "gradient_checkpointing")
            if isinstance(value, str | int | float | None) and not numbered and not passing:
                yield f"{path}.{name}", value

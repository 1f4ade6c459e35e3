"""What a training step must come to, computed the long way: one example at a time, in float64."""

import math

import torch

from sft.data.encoding import IGNORED


def kl(p, q):
    return torch.where(p > 0, p * (p.clamp(min=1e-300).log() - q.log()), 0.0).sum()


def divergence(p, q, soft):
    """Of one token's probabilities, times T^2 where it belongs."""
    square = soft.temperature**2
    if soft.divergence == "tvd":
        return (p - q).abs().sum() / 2
    if soft.divergence == "forward_kl":
        return kl(p, q) * square
    if soft.divergence == "reverse_kl":
        return kl(q, p) * square
    if soft.divergence == "jsd":
        m = soft.beta * p + (1 - soft.beta) * q
        return (soft.beta * kl(p, m) + (1 - soft.beta) * kl(q, m)) * square
    if soft.divergence == "skewed_kl":
        return kl(p, soft.skew * p + (1 - soft.skew) * q) * square
    return kl(q, (1 - soft.skew) * p + soft.skew * q) * square


def outcomes(p, q, ids):
    """Both over some tokens and all the rest together; `p` holds those tokens alone."""
    inside = torch.zeros(len(q), dtype=torch.bool)
    inside[ids] = True
    rest = [q[~inside].sum()] if bool((~inside).any()) else []
    missing = [1 - p.sum()] if rest else []
    return torch.cat([p, torch.stack(missing)]) if missing else p, (
        torch.cat([q[ids], torch.stack(rest)]) if rest else q[ids]
    )


class Run:
    """A forward pass over one example alone, with the states of all layers."""

    def __init__(self, model, ids):
        self.states, self.qkv, hooks = {}, {}, []
        for number, layer in enumerate(model.model.layers, 1):
            hooks.append(layer.register_forward_hook(self._state(number)))
            for kind in "qkv":
                module = getattr(layer.self_attn, f"{kind}_proj", None)
                if module is not None:
                    hooks.append(module.register_forward_hook(self._qkv(number, kind)))
        tokens = torch.tensor([ids])
        self.logits = model(input_ids=tokens, use_cache=False).logits[0]
        for hook in hooks:
            hook.remove()

    def _state(self, number):
        def keep(module, args, out):
            self.states[number] = (out[0] if isinstance(out, tuple) else out)[0]

        return keep

    def _qkv(self, number, kind):
        def keep(module, args, out):
            self.qkv[number, kind] = out[0]

        return keep


def relation_loss(mine, theirs, heads, rows):
    """KL of the relations of some rows, mean over heads."""
    total = 0.0
    for row in rows:
        for head in range(heads):
            logs = []
            for vectors in (mine, theirs):
                size = vectors.shape[-1] // heads
                part = vectors[: row + 1, head * size : (head + 1) * size]
                logs.append((part @ part[row] / math.sqrt(size)).softmax(-1))
            total = total + kl(logs[1], logs[0]) / heads
    return total


def hidden_loss(mine, theirs, rows, how, pairs, projections, heads):
    total = 0.0
    for number, (one, other) in enumerate(pairs):
        learned, target = mine.states[one], theirs.states[other].detach()
        if projections is not None:
            learned = learned @ projections[number].double().T
        for row in rows:
            distance = (learned[row] - target[row]).square().mean()
            if how.relative:
                # The embedding of a padding token may be 0 altogether.
                distance = distance / target[row].square().mean().clamp(min=1e-12)
            angle = 1 - torch.nn.functional.cosine_similarity(learned[row], target[row], dim=0)
            total = total + (how.mse * distance + how.cosine * angle) / len(pairs)
    if how.relations:
        last = [max(key[0] for key in run.qkv) for run in (mine, theirs)]
        for kind in "qkv":
            pair = mine.qkv[last[0], kind], theirs.qkv[last[1], kind].detach()
            total = total + how.relations * relation_loss(*pair, heads, rows)
    return total


def step(
    student, examples, config, teachers=(), shares=None, stored=None, hidden=None, shared=None
):
    """The loss of all examples together, divided by all their labels, and its parts as sums.

    Args:
        student: In float64.
        examples: Encoded.
        config: The section `train`.
        teachers: Models in float64.
        shares: Of the teachers, for each example.
        stored: For each example and teacher its ids, logits and logsumexp, in place of models.
        hidden: (pairs, projections, heads, place of its teacher).
        shared: How many ids all share.
    """
    soft = config.soft_labels
    sums = {"cross_entropy": 0.0, "divergence": 0.0, "hidden_states": 0.0}
    labelled = 0
    for number, example in enumerate(examples):
        mine = Run(student, example.input_ids)
        with torch.no_grad():
            theirs = [Run(teacher, example.input_ids) for teacher in teachers]
        rows = [i for i, label in enumerate(example.labels[1:]) if label != IGNORED]
        labelled += len(rows)
        for place, row in enumerate(rows):
            logits = mine.logits[row]
            sums["cross_entropy"] -= logits.log_softmax(-1)[example.labels[row + 1]]
            if soft is None or soft.alpha == 1:
                continue
            q = (logits[:shared] / soft.temperature).softmax(-1)
            share = shares[number] if shares else [1 / max(1, len(teachers))] * len(teachers)
            if stored:
                p, ids = torch.zeros(len(q), dtype=torch.float64), []
                for (own, raw, lse), weight in zip(stored[number], share, strict=True):
                    if weight:
                        p[own[place]] += weight * (raw[place] / soft.temperature - lse[place]).exp()
                        ids += own[place].tolist()
                ids = torch.tensor(sorted(set(ids)))
                p, q = outcomes(p[ids], q, ids)
            else:
                p = sum(
                    weight * (run.logits[row][:shared] / soft.temperature).softmax(-1)
                    for run, weight in zip(theirs, share, strict=True)
                )
            sums["divergence"] += divergence(p, q, soft)
        if hidden:
            pairs, projections, heads, which = hidden
            sums["hidden_states"] += hidden_loss(
                mine, theirs[which], rows, config.hidden_states, pairs, projections, heads
            )
    alpha = 1.0 if soft is None else soft.alpha
    output = config.hidden_states.output if config.hidden_states else 1.0
    total = output * (alpha * sums["cross_entropy"] + (1 - alpha) * sums["divergence"])
    return (total + sums["hidden_states"]) / labelled, sums, labelled


def close(mine, reference, tolerance=1e-6):
    """Whether all values equal those of the reference, as parts of its largest."""
    scale = max(1.0, float(reference.detach().abs().max()))
    return torch.allclose(mine.double(), reference, rtol=0, atol=tolerance * scale)


def relation_reference(student, teacher, heads, weights, documents):
    """MiniLMv2's equations, one pair of tokens at a time."""
    total = torch.zeros((), dtype=torch.float64)
    batch, length, _ = student.shape
    for b in range(batch):
        for t in range(length):
            if not weights[b, t]:
                continue
            seen = [k for k in range(t + 1) if documents[b, k] == documents[b, t]]
            for h in range(heads):

                def row(vectors, t=t, b=b, h=h, seen=seen):
                    size = vectors.shape[-1] // heads
                    part = vectors[b, :, h * size : (h + 1) * size]
                    scores = torch.stack([part[t] @ part[k] for k in seen]) / math.sqrt(size)
                    return scores - torch.logsumexp(scores, 0)

                log_p, log_q = row(teacher), row(student)
                total = total + weights[b, t] * (log_p.exp() * (log_p - log_q)).sum() / heads
    return total

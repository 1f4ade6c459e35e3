"""Soft labels a few rows at a time: what comes out is the same, however rows are cut."""

import pytest

from sft.losses import soft_labels as soft_loss
from sft.losses.divergences import Divergence
from sft.losses.soft_labels import Online, Stored, summed_soft_loss

torch = pytest.importorskip("torch")

WIDTH, VOCABULARY, ROWS, PADDING = 8, 23, 3, 2
BLOCK = 4 * (VOCABULARY + PADDING) * ROWS  # bytes of three rows; the labelled tokens are more


def case(seed=0):
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(3, 9, WIDTH, generator=draw).requires_grad_()
    head = torch.nn.Linear(WIDTH, VOCABULARY + PADDING, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=draw))
    labels = torch.randint(VOCABULARY, (3, 9), generator=draw)
    labels[torch.rand(3, 9, generator=draw) < 0.3] = -100
    count = int((labels[:, 1:] != -100).sum())
    raw = torch.randn(2, count, VOCABULARY, generator=draw) * 2
    stored = [Stored(*reversed(z.topk(5, -1)), (z / 2).logsumexp(-1)) for z in raw]
    online = []
    for _ in range(2):
        theirs = torch.nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)
        online.append(Online(torch.randn(3, 9, WIDTH, generator=draw), theirs))
    weights = torch.rand(count, 2, generator=draw) + 0.1
    return hidden, labels, head, {"stored": stored, "online": online}, weights


def found(given, monkeypatch, block, kind, teachers, divergence, alpha, chunk=2**28):
    hidden, labels, head, every, weights = given
    monkeypatch.setattr(soft_loss, "_BLOCK_BYTES", {"cpu": block})
    sums = summed_soft_loss(
        hidden, labels, head, every[kind][:teachers], Divergence(divergence, 2.0), alpha,
        weights[:, :teachers], VOCABULARY, chunk,
    )  # fmt: skip
    return [*sums, *torch.autograd.grad(3 * sums.total, (hidden, head.weight))]


@pytest.mark.parametrize("kind", ["stored", "online"])
@pytest.mark.parametrize("teachers", [1, 2])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "tvd"])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_blocks_change_nothing(monkeypatch, kind, teachers, divergence, alpha):
    given = case()
    how = (kind, teachers, divergence, alpha)
    whole = found(given, monkeypatch, 2**30, *how)
    for block, chunk in ((1, 2**28), (BLOCK, 2**28), (BLOCK, 4 * BLOCK)):
        for mine, theirs in zip(found(given, monkeypatch, block, *how, chunk), whole, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_nothing_labelled_costs_nothing(monkeypatch):
    hidden, _, head, every, _ = case()
    nothing = torch.full((3, 9), -100)
    teacher = Stored(*(part[:0] for part in (every["stored"][0].ids, every["stored"][0].logits)),
                     torch.zeros(0))  # fmt: skip
    sums = summed_soft_loss(hidden, nothing, head, [teacher], Divergence("forward_kl", 2.0))
    assert sums.total == 0
    (gradient,) = torch.autograd.grad(sums.total, hidden)
    assert not gradient.any()


def test_values_alone_need_no_gradient():
    hidden, labels, head, every, _ = case()
    how = Divergence("forward_kl", 2.0)
    with torch.no_grad():
        alone = summed_soft_loss(
            hidden, labels, head, every["online"][:1], how, 0.5, None, VOCABULARY
        )
    learned = summed_soft_loss(
        hidden, labels, head, every["online"][:1], how, 0.5, None, VOCABULARY
    )
    assert not alone.total.requires_grad
    assert torch.equal(alone.total, learned.total)

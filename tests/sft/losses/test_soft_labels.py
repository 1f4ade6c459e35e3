"""Hard and soft labels together: against a float64 computation over whole logits, and in chunks."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.losses.cross_entropy import summed_loss
from sft.losses.divergences import Divergence, dense, divergence, top_k
from sft.losses.soft_labels import Online, Stored, summed_soft_loss
from synth.core.errors import UserError

torch = pytest.importorskip("torch")

B, L, V = 3, 7, 23
HOW = Divergence("forward_kl", temperature=2.0)


class Case:
    """A student's hidden states and head, labels with gaps, and the logits of two teachers."""

    def __init__(self, seed=0, dtype=torch.float32, masked=0.4, padded_rows=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.hidden = self.normal(B, L, 8).to(dtype).requires_grad_()
        self.head = torch.nn.Linear(8, V + padded_rows, bias=False, dtype=dtype)
        with torch.no_grad():
            self.head.weight.copy_(self.normal(V + padded_rows, 8))
        self.labels = torch.randint(0, V, (B, L), generator=self.generator)
        hide = torch.rand(B, L, generator=self.generator) < masked
        self.labels[hide] = -100
        self.labels[:, 0] = -100  # the first token of a prompt
        self.labels[0, 1] = 5
        self.where = self.labels[:, 1:] != -100
        self.teacher_hidden = [self.normal(B, L, 6), self.normal(B, L, 5)]
        self.teacher_heads = [self.linear(6), self.linear(5)]

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator) * 1.5

    def linear(self, width):
        head = torch.nn.Linear(width, V, bias=False)
        with torch.no_grad():
            head.weight.copy_(self.normal(V, width))
        return head

    def online(self, which=(0,)):
        return [Online(self.teacher_hidden[i], self.teacher_heads[i]) for i in which]

    def teacher_logits(self, i):
        with torch.no_grad():
            return self.teacher_heads[i](self.teacher_hidden[i])[:, :-1][self.where]

    def stored(self, which=(0,), k=5, temperature=2.0):
        made = []
        for i in which:
            logits = self.teacher_logits(i)
            top = logits.topk(k, -1)
            made.append(
                Stored(top.indices, top.values, (logits.double() / temperature).logsumexp(-1))
            )
        return made

    def loss(self, teachers, how=HOW, alpha=0.5, **more):
        """The sums, and the gradients by hidden states and head."""
        found = summed_soft_loss(self.hidden, self.labels, self.head, teachers, how, alpha, **more)
        gradients = torch.autograd.grad(found.total, (self.hidden, self.head.weight))
        return found, gradients

    def want(self, log_p, how=HOW, alpha=0.5):
        """The same in float64, over whole logits; forward KL over whatever `log_p` covers."""
        hidden = self.hidden.detach().double().requires_grad_()
        weight = self.head.weight.detach().double().requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        row = 0
        for b in range(B):
            for t in range(L - 1):
                if self.labels[b, t + 1] == -100:
                    continue
                z = weight @ hidden[b, t]
                total = total - alpha * z.log_softmax(-1)[self.labels[b, t + 1]]
                log_q = (z[:V] / how.temperature).log_softmax(-1)
                p = log_p[row].double().exp()
                soft = (p * (log_p[row].double() - log_q)).sum() * how.temperature**2
                total = total + (1 - alpha) * soft
                row += 1
        return total, torch.autograd.grad(total, (hidden, weight))


def close(found, want):
    scale = max(1.0, abs(want[0].item()))
    assert abs(found[0].total.item() - want[0].item()) <= 1e-6 * scale
    for mine, theirs in zip(found[1], want[1], strict=True):
        assert (mine.double() - theirs).abs().max() <= 1e-6 * scale


@pytest.mark.slow
@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    alpha=st.sampled_from([0.0, 0.3, 0.5]),
    temperature=st.sampled_from([1.0, 2.0, 4.0]),
    masked=st.sampled_from([0.0, 0.5, 0.9]),
    padded_rows=st.sampled_from([0, 3]),
    chunk=st.sampled_from([1, 2**28]),
)
def test_equals_the_reference_over_whole_logits(
    seed, alpha, temperature, masked, padded_rows, chunk
):
    case = Case(seed, masked=masked, padded_rows=padded_rows)
    how = Divergence(temperature=temperature)
    log_p = [(case.teacher_logits(i).double() / temperature).log_softmax(-1) for i in (0, 1)]
    more = {"alpha": alpha, "vocabulary": V, "chunk_bytes": chunk}
    close(case.loss(case.online(), how, **more), case.want(log_p[0], how, alpha))
    every = case.stored(k=V, temperature=temperature)
    close(case.loss(every, how, **more), case.want(log_p[0], how, alpha))
    # Two teachers, weighted, by example.
    weights = (torch.rand(B, 2, generator=case.generator) + 0.01)[case.where.nonzero()[:, 0]]
    share = (weights / weights.sum(-1, keepdim=True)).double()
    mixed = (share[:, :1] * log_p[0].exp() + share[:, 1:] * log_p[1].exp()).log()
    got = case.loss(case.online((0, 1)), how, weights=weights, **more)
    close(got, case.want(mixed, how, alpha))
    both = case.stored((0, 1), k=V, temperature=temperature)
    close(case.loss(both, how, weights=weights, **more), case.want(mixed, how, alpha))


@pytest.mark.parametrize("kind", ["reverse_kl", "jsd", "tvd"])
@pytest.mark.parametrize("k", [1, 5])
def test_top_k_sums_the_divergence_of_each_labelled_token(kind, k):
    case, how = Case(), Divergence(kind, 2.0)
    stored = case.stored(k=k)
    logits = case.head(case.hidden)[:, :-1][case.where]
    teacher = top_k(stored[0].ids, stored[0].logits, stored[0].logsumexp, 2.0)
    want = divergence(teacher, logits, how).sum()
    found, _ = case.loss(stored, how, alpha=0.0)
    torch.testing.assert_close(found.total.double(), want.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("which", [(0,), (0, 1)])
@pytest.mark.parametrize("kind", ["online", "stored"])
def test_chunks_change_nothing(kind, which):
    case = Case(masked=0.1)
    teachers = getattr(case, kind)(which)
    whole, chunked = (case.loss(teachers, chunk_bytes=size) for size in (2**28, 1))
    torch.testing.assert_close(chunked[0].total, whole[0].total, rtol=1e-6, atol=0)
    for a, b in zip(chunked[1], whole[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_alpha_1_is_the_plain_loss_and_asks_no_teacher():
    case = Case()

    def refuse(_):
        raise AssertionError("asked")

    for chunk in (1, 2**28):
        found, gradients = case.loss(
            [Online(case.teacher_hidden[0], refuse)], alpha=1.0, chunk_bytes=chunk
        )
        plain = summed_loss(case.hidden, case.labels, case.head, chunk)
        assert torch.equal(found.total, plain)
        theirs = torch.autograd.grad(plain, (case.hidden, case.head.weight))
        assert all(torch.equal(a, b) for a, b in zip(gradients, theirs, strict=True))
        assert found.divergence == 0


def test_alpha_0_leaves_the_labels_out():
    case = Case()
    before, _ = case.loss(case.online(), alpha=0.0)
    case.labels[case.labels != -100] = 1
    after, _ = case.loss(case.online(), alpha=0.0)
    assert before.total == after.total == before.divergence and before.cross_entropy == 0


def test_the_parts_add_up():
    case = Case()
    found, _ = case.loss(case.online(), alpha=0.3)
    hard = summed_loss(case.hidden, case.labels, case.head)
    torch.testing.assert_close(found.cross_entropy, hard.detach())
    total = 0.3 * found.cross_entropy + 0.7 * found.divergence
    torch.testing.assert_close(found.total.detach(), total)


def test_nothing_labelled_is_no_loss():
    case = Case()
    case.labels[:] = -100
    case.where[:] = False
    for teachers in (case.online(), case.stored()):
        found, gradients = case.loss(teachers)
        assert found.total == 0 and all((g == 0).all() for g in gradients)


def test_no_gradient_reaches_the_teacher():
    case = Case()
    found = summed_soft_loss(case.hidden, case.labels, case.head, case.online(), HOW)
    found.total.backward()
    assert case.teacher_heads[0].weight.grad is None
    assert case.head.weight.grad is not None


def test_weights_route_an_example_to_its_teacher():
    case = Case()
    examples = torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    weights = examples[case.where.nonzero()[:, 0]]
    routed, _ = case.loss(case.online((0, 1)), alpha=0.0, weights=weights)
    logits = torch.where(
        (weights[:, :1] > 0),
        case.teacher_logits(0),
        case.teacher_logits(1),
    )
    student = case.head(case.hidden)[:, :-1][case.where]
    want = divergence(dense(logits, 2.0), student, HOW).sum()
    torch.testing.assert_close(routed.total, want, rtol=1e-6, atol=1e-6)


def test_a_bfloat16_head_is_read_in_float32():
    case = Case(dtype=torch.bfloat16)
    found, _ = case.loss(case.online())
    assert found.total.dtype == torch.float32
    student = case.head(case.hidden)[:, :-1][case.where].double()
    soft = divergence(dense(case.teacher_logits(0).double(), 2.0), student, HOW).sum()
    assert found.divergence.item() == pytest.approx(soft.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teachers": "none"}, "one teacher or more"),
        ({"teachers": "mixed"}, "all in memory or all with stored"),
        ({"teachers": "short"}, "belong to other data"),
        ({"teachers": "stored", "vocabulary": 4}, "made for another vocabulary"),
        ({"teachers": "stored", "far": True}, "share 23 ids"),
        ({"padded_rows": 2}, "23 logits and the student 25"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"weights": [0.5]}, "expected \\(2,\\)"),
        ({"weights": [0.0, 0.0]}, "not all of a token 0"),
        ({"weights": [-1.0, 2.0]}, "at least 0"),
        ({"weights": [float("nan"), 2.0]}, "at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    change = dict(change)
    case = Case(padded_rows=change.pop("padded_rows", 0))
    stored = case.stored()
    short = [Stored(stored[0].ids[1:], stored[0].logits[1:], stored[0].logsumexp[1:])]
    named = {"mixed": case.online() + stored, "short": short, "stored": stored, "none": []}
    if change.pop("far", False):
        stored[0].ids[0, 0] = V
    named["two"] = case.online((0, 1))
    with pytest.raises(UserError, match=said):
        case.loss(named[change.pop("teachers", "two")], **change)


PEAK = """
import sys, torch
from pathlib import Path
from sft.losses.divergences import Divergence
from sft.losses.cross_entropy import summed_loss
from sft.losses.soft_labels import Online, Stored, summed_soft_loss
rows, tokens, width = 151936, 600, 32  # Qwen2.5's vocabulary
torch.manual_seed(0)
hidden = torch.randn(1, tokens + 1, width, requires_grad=True)
head = torch.nn.Linear(width, rows, bias=False)
labels = torch.randint(0, rows, (1, tokens + 1))
which, kind = sys.argv[1:]
if which == "hard":
    summed_loss(hidden, labels, head).backward()
else:
    ids = torch.rand(tokens, 1000).argsort(-1)[:, :64]
    teacher = Stored(ids, torch.randn(tokens, 64), torch.full((tokens,), 12.0))
    if which == "online":
        other = torch.nn.Linear(width, rows, bias=False)
        teacher = Online(torch.randn(1, tokens + 1, width), other)
    summed_soft_loss(hidden, labels, head, [teacher], Divergence(kind, 2.0)).total.backward()
# getrusage would begin with the peak of the tests' own process.
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
def test_peak_memory_at_a_vocabulary_of_151936_is_that_of_cross_entropy():
    def peak(which, kind="forward_kl"):
        command = [sys.executable, "-c", PEAK, which, kind]
        return int(subprocess.run(command, capture_output=True, check=True, timeout=300).stdout)

    hard = peak("hard")
    ratios = {
        (which, kind): peak(which, kind) / hard
        for which in ("stored", "online")
        for kind in ("forward_kl", "jsd")
    }
    print(ratios)
    assert max(ratios.values()) <= 1.15, ratios

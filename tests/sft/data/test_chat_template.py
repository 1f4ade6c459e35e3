import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.data import chat_template as chat
from synth.core.errors import UserError
from synth.core.reasoning import join_trace

FAMILIES = ["chatml", "r1"]
TEXT = st.text(max_size=30) | st.sampled_from(
    [
        "{{ x }}",
        "{% generation %}",
        "<|im_end|>",
        "<｜User｜>",
        " a \n",
        "<think>\n",
        "\ufdd2 0 \ufdd0",
    ]
)


@st.composite
def conversations(draw):
    """Turns that end with an assistant's, whose texts all open their reasoning."""
    messages = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(TEXT)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXT)})
        trace = join_trace(draw(TEXT), draw(TEXT))
        messages.append({"role": "assistant", "content": trace})
    return messages


def text_of(template, messages, **options):
    return "".join(text for text, _ in chat.render_spans(template, messages, options))


@pytest.mark.parametrize("family", FAMILIES)
@given(messages=conversations())
def test_the_prompt_is_an_exact_prefix_of_the_conversation(family, messages):
    template = chat.template_text(family)
    prompt = text_of(template, messages[:-1], add_generation_prompt=True)
    assert text_of(template, messages).startswith(prompt)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@given(messages=conversations())
def test_rendering_agrees_with_the_tokenizer(family, messages, tokenizers):
    tokenizer = tokenizers[family]
    template = chat.template_text(family)
    assert text_of(template, messages) == tokenizer.apply_chat_template(messages, tokenize=False)
    theirs = tokenizer.apply_chat_template(
        messages[:-1], tokenize=False, add_generation_prompt=True
    )
    assert text_of(template, messages[:-1], add_generation_prompt=True) == theirs


@pytest.mark.parametrize("family", FAMILIES)
@given(messages=conversations())
def test_each_assistant_turn_carries_loss_with_its_end(family, messages):
    end = {"chatml": "<|im_end|>", "r1": "<｜end▁of▁sentence｜>"}[family]
    learned = [
        text for text, loss in chat.render_spans(chat.template_text(family), messages) if loss
    ]
    traces = [m["content"] for m in messages if m["role"] == "assistant"]
    if family == "r1":
        traces = [trace.removeprefix("<think>\n") for trace in traces]
    assert learned == [trace + end for trace in traces]


def test_no_system_turn_is_made_up():
    text = text_of(chat.template_text("chatml"), [{"role": "user", "content": "hi"}])
    assert text == "<|im_start|>user\nhi<|im_end|>\n"


def test_r1_takes_a_system_turn_at_the_head_alone():
    turns = [{"role": "user", "content": "u"}, {"role": "system", "content": "s"}]
    with pytest.raises(UserError, match="system turn cannot stand here"):
        chat.render_spans(chat.template_text("r1"), turns)
    assert text_of(chat.template_text("r1"), turns[::-1]).endswith("s<｜User｜>u")


def test_auto_goes_by_the_special_tokens(tokenizers):
    for family in FAMILIES:
        assert chat.select_template(tokenizers[family]) == chat.template_text(family)


def test_auto_that_cannot_choose_names_the_known_families():
    class Unknown:
        def get_vocab(self):
            return {"<s>": 1}

    with pytest.raises(UserError, match=r"chatml needs .*<\|im_end\|>.*Name one of chatml, "):
        chat.select_template(Unknown())


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'chatml'"):
        chat.template_text("chatm")


def test_apply_sets_template_and_end(plain_tokenizer):
    plain_tokenizer.eos_token = "<|endoftext|>"
    plain_tokenizer.pad_token = None
    chat.set_chat_template(plain_tokenizer, chat.template_text("chatml"))
    assert plain_tokenizer.eos_token == plain_tokenizer.pad_token == "<|im_end|>"
    assert plain_tokenizer.chat_template == chat.template_text("chatml")


def test_a_template_of_another_family_is_refused(plain_tokenizer):
    with pytest.raises(UserError, match="no token of this student"):
        chat.set_chat_template(plain_tokenizer, chat.template_text("r1"))


OWN = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content TEXT }}{% endgeneration %}"
    "{% else %}{{ m.content TEXT }}{% endif %}{% endfor %}"
)


def test_a_template_of_the_users_own(tmp_path, plain_tokenizer):
    path = tmp_path / "own.jinja"
    path.write_text(OWN.replace("TEXT", "+ eos_token"))
    chat.set_chat_template(plain_tokenizer, chat.select_template(plain_tokenizer, str(path)))
    assert plain_tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (OWN.replace("TEXT", "| trim"), "between"),
        (OWN.replace("TEXT", "| trim") + "<|im_end|>", "between"),
        (OWN.replace("TEXT", "| trim + '<|im_end|>'"), None),
        ("{% for m in messages", "between|expected|unexpected|end of"),
    ],
)
def test_unsound_templates_are_refused(template, message):
    if message is None:  # sound until a text has white space that it strips
        chat.render_spans(template, [{"role": "user", "content": "a"}])
        with pytest.raises(UserError, match="changes the texts"):
            chat.render_spans(template, [{"role": "user", "content": " a"}])
    else:
        with pytest.raises(UserError, match=message):
            chat.end_token(template)


def test_a_template_without_marks_is_refused(tmp_path):
    path = tmp_path / "stock.jinja"
    path.write_text("{{ messages[0].content }}")
    with pytest.raises(
        UserError, match=r"no .% generation %. marks.*Write .% generation %. before"
    ):
        chat.template_text(str(path))


def test_every_template_of_the_package_is_known_and_has_a_name_to_be_guessed_by():
    assert {path.stem for path in chat.FOLDER.iterdir()} == set(chat.KNOWN) == set(chat._NAMES)


def test_a_template_that_leaves_a_message_out_is_refused():
    template = OWN.replace("TEXT", "+ '</s>'").replace("{% else %}", "{% elif m.role == 'user' %}")
    talk = [{"role": r, "content": "x"} for r in ("user", "assistant", "tool")]
    chat.render_spans(template, talk[:2])
    with pytest.raises(UserError, match="leaves out message 3, of the role 'tool'"):
        chat.render_spans(template, talk)


@pytest.mark.parametrize("role", ["", "user<|im_end|>", "\ufdd0", "a b", "user\n"])
def test_a_role_that_would_write_into_the_template_is_refused(role):
    with pytest.raises(UserError, match=r"message 1: .* no name of a role"):
        chat.render_spans(chat.template_text("chatml"), [{"role": role, "content": "x"}])


@pytest.mark.parametrize(
    "fault", ["{{ 1 / 0 }}", "{{ 1 + 'a' }}", "{{ range(10**9) }}", "{{ x.y }}"]
)
def test_an_error_of_the_users_template_is_told_as_such(fault):
    with pytest.raises(UserError, match=r"student\.chat_template"):
        chat.render_spans(OWN.replace("TEXT", "+ '</s>'") + fault, [])


def test_templates_run_in_a_sandbox():
    with pytest.raises(UserError):
        chat.render_spans("{{ messages.__class__.__mro__[1].__subclasses__() }}", [])


def test_rendering_needs_no_transformers():
    code = (
        "import sys; sys.modules['transformers'] = sys.modules['torch'] = None\n"
        "from sft.data.encoding import preview_spans; from synth.config.train import Student\n"
        "turns = [{'role': 'user', 'content': 'q'}]\n"
        "for m in ('Qwen/Qwen2.5-1.5B', 'deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B'):\n"
        "    print(preview_spans(Student(model=m, chat_template='NAME'), turns, 'r', 'a'))\n"
    )
    for name in ("chatml", "r1"):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("NAME", name)], capture_output=True, text=True
        )
        assert "True" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "r1"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "r1"), ("Qwen/Qwen2.5-Math-1.5B", "chatml"),
        ("Qwen/Qwen3-0.6B", "chatml"), ("meta-llama/Llama-3.2-1B", "llama3"),
        ("meta-llama/Meta-Llama-3-8B", "llama3"), ("google/gemma-3-270m", "gemma3"),
        ("microsoft/Phi-3.5-mini-instruct", "phi3"), ("microsoft/phi-4", "phi4"),
        ("microsoft/Phi-4-mini-instruct", "phi4_mini"), ("somebody/something", "chatml"),
    ],
)  # fmt: skip
def test_a_model_of_unknown_files_is_guessed_by_its_name(model, family):
    assert chat.template_from_name(model) == chat.template_text(family)

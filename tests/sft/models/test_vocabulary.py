"""Tokenizers that agree and that do not: SmolLM2's, and small ones made up here."""

import pytest

from sft.models.vocabulary import shared_vocabulary
from synth.core.errors import UserError

pytest.importorskip("transformers")

LETTERS = [chr(c) for c in range(33, 127)] + ["▁"]


def made_up(vocabulary, merges=(), lowercase=False):
    """A byte-pair tokenizer of these tokens, in this order."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(vocabulary)}
    inner = Tokenizer(models.BPE(ids, list(merges), unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    if lowercase:
        inner.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?")


@pytest.fixture
def letters():
    return made_up(LETTERS)


def test_a_tokenizer_shares_all_with_itself(smollm2, letters):
    assert shared_vocabulary(smollm2, smollm2) == len(smollm2) == 49152
    assert shared_vocabulary(letters, made_up(LETTERS)) == len(LETTERS)


def test_tokens_that_one_has_above_the_other_are_not_shared(letters):
    more = made_up([*LETTERS, "<one>", "<two>"])
    assert shared_vocabulary(letters, more) == len(LETTERS)
    assert shared_vocabulary(more, letters) == len(LETTERS)


def test_tokens_added_to_a_real_tokenizer(smollm2):
    import copy

    more = copy.deepcopy(smollm2)
    more.add_special_tokens({"additional_special_tokens": ["<new>"]})
    assert shared_vocabulary(smollm2, more) == len(smollm2)


def test_another_vocabulary_is_refused_with_the_first_difference(smollm2, letters):
    swapped = LETTERS.copy()
    swapped[40], swapped[41] = swapped[41], swapped[40]
    with pytest.raises(UserError, match=r"token 40 is 'I' to the student and 'J'.*on_policy"):
        shared_vocabulary(letters, made_up(swapped))
    with pytest.raises(UserError, match=r"token 0 is .*on_policy"):
        shared_vocabulary(smollm2, letters)


def test_a_special_token_under_another_name_is_refused(smollm2):
    from transformers import PreTrainedTokenizerFast

    text = smollm2.backend_tokenizer.to_str().replace("<|im_end|>", "<|other|>")
    from tokenizers import Tokenizer

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text))
    with pytest.raises(UserError, match=r"'<\|im_end\|>' to the student and '<\|other\|>'"):
        shared_vocabulary(smollm2, other)


def test_a_hole_in_one_of_them_is_refused(letters):
    from transformers import PreTrainedTokenizerFast

    class Holed(PreTrainedTokenizerFast):
        def get_vocab(self):
            return {token: id for token, id in super().get_vocab().items() if id != 7}

    with pytest.raises(UserError, match="token 7 is '\\(' to the student and nothing to it"):
        shared_vocabulary(letters, Holed(tokenizer_object=letters.backend_tokenizer))


@pytest.mark.parametrize("how", ["merges", "lowercase"])
def test_the_same_tokens_cut_in_another_way_are_refused(how):
    vocabulary = [*LETTERS, "th", "he"]
    one = made_up(vocabulary, [("t", "h"), ("h", "e")])
    other = made_up(
        vocabulary, [("h", "e"), ("t", "h")] if how == "merges" else [("t", "h"), ("h", "e")],
        lowercase=how == "lowercase",
    )  # fmt: skip
    with pytest.raises(UserError, match="they cut 'Then the other"):
        shared_vocabulary(one, other)


def test_a_hostile_token_cannot_write_on_the_screen():
    hostile = made_up(["\x1b[31m\u202e\n" + "x" * 1000, *LETTERS[1:]])
    with pytest.raises(UserError) as caught:
        shared_vocabulary(made_up(LETTERS), hostile)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500

"""What the tokens of an encoded example say, in stretches with and without loss."""

from itertools import groupby

from sft.data.encoding import IGNORED


def segments(tokenizer, encoded):
    pairs = zip(encoded.input_ids, encoded.labels, strict=True)
    return [
        (
            tokenizer.decode(
                [token for token, _ in stretch],
                skip_special_tokens=False,
                clean_up_tokenization_spaces=False,
            ),
            has_loss,
        )
        for has_loss, stretch in groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    ]

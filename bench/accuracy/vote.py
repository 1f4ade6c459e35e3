"""How often `vote` keeps right answers: real answers with labels, eight of one model a question.

    .venv/bin/python bench/accuracy/vote.py [--data FOLDER]

Kept are the answers of the majority; precision is the share of them that the labels call right.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from common import table  # noqa: E402

from filters import vote  # noqa: E402
from filters.base import Context  # noqa: E402
from synth.core.record import Record, Task  # noqa: E402

DATA = ROOT.parent / "shared" / "data"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    path = parser.parse_args().data / "math-cot-100.jsonl"
    if not path.exists():
        print(f"the real data is not in {path.parent}", file=sys.stderr)
        raise SystemExit(2)
    questions = [json.loads(line) for line in path.read_text().splitlines() if line]
    rows, apart = [], []
    for samples in (2, 4, 8):
        records = [
            Record("r", Task(str(row["idx"]), row["question"]), [], None, answer)
            for row in questions
            for answer in row["code"][:samples]
        ]
        labels = [right for row in questions for right in row["score"][:samples]]
        for share in (0.5, 0.75, 1.0):
            check = vote.build(vote.Config(min_share=share), Context())
            found = list(check(lambda records=records: iter(records)))
            kept = [right for d, right in zip(found, labels, strict=True) if d.keep]
            wrong = {
                r.task.id
                for r, d, ok in zip(records, found, labels, strict=True)
                if d.keep and not ok
            }
            rows.append(
                (samples, share, len(labels), f"{sum(labels) / len(labels):.2%}", len(kept),
                 f"{sum(kept) / len(kept):.2%}", f"{sum(kept) / sum(labels):.2%}",
                 sum(d.keep is None for d in found))
            )  # fmt: skip
            if samples == 8 and share == 0.5:
                apart = sorted(wrong, key=int)
    table(
        [
            "samples",
            "min_share",
            "answers",
            "right before",
            "kept",
            "precision",
            "recall",
            "cannot tell",
        ],
        rows,
    )
    print(f"questions whose majority of 8 (min_share 0.5) is labelled wrong: {', '.join(apart)}")
    for row in questions:
        if str(row["idx"]) in apart:
            print(f"- {row['idx']}: reference {row['gt']!r}; answers {row['pred']}")


if __name__ == "__main__":
    main()

"""Run by torchrun: trains on-policy in several processes and says what each ended with."""

import hashlib
import sys
from pathlib import Path

from accelerate import PartialState

sys.path.append(str(Path(__file__).parents[3]))
from sft.data.chat_template import select_template, set_chat_template
from tests.helpers.training.on_policy_runs import asks, build, tiny, trained_bpe

here = PartialState(cpu=True)
mine, other = trained_bpe(800), trained_bpe(300)
for tokenizer in (mine, other):
    set_chat_template(tokenizer, select_template(tokenizer))
theirs = other if sys.argv[2] == "gold" else mine
folder = Path(sys.argv[1]) / str(here.process_index)  # a watch each, so a log each
folder.mkdir()
trainer, watch, _ = build(
    tiny(mine), mine, tiny(theirs, seed=1), theirs, folder, asks(7), batch_size=2,
    gradient_accumulation=2, epochs=3, save_steps=1000,
)  # fmt: skip
trainer.train()
weights = trainer.accelerator.unwrap_model(trainer.model).state_dict().values()
total = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in weights)).hexdigest()
(folder / "end").write_text(f"{watch.meter.step} {watch.meter.loss_tokens} {total}")

"""Run by `accelerate launch`: trains what the JSON file names, one after the other."""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))
from accelerate.state import AcceleratorState

from synth.core.errors import Interrupted, UserError
from tests.helpers.training import distributed_runs as making

if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    # accelerate shards on GPUs alone; torch does it on the processor too, so it is told it has some.
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState(cpu=True)
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    PartialState._reset_state()


def then(what, step):
    """Does to the second process what a test asks for, after a step."""

    def progress(row):
        if row["step"] == step and os.environ["RANK"] == "1":
            if what == "fails":
                raise UserError("the second process fails")
            os.kill(os.getpid(), signal.SIGTERM)

    return progress


for job in json.loads(Path(sys.argv[1]).read_text()):
    folder, models = Path(job.pop("folder")), Path(job.pop("models"))
    progress = then(*job.pop("then", ("nothing", None)))
    try:
        making.run(folder=folder, models=models, processes=2, on_progress=progress, **job)
    except Interrupted as stop:
        print(stop)
print(AcceleratorState().distributed_type)

"""Run by `accelerate launch`: trains what the JSON file names, one after the other."""

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
import processes_making as making

if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    # accelerate shards on GPUs alone; torch does it on the processor too, so it is told it has some.
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState(cpu=True)
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    PartialState._reset_state()
for job in json.loads(Path(sys.argv[1]).read_text()):
    folder = Path(job.pop("folder"))
    making.run(folder=folder, models=Path(job.pop("models")), processes=2, **job)

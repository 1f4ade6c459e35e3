"""Run by `accelerate launch`: trains what the JSON file names, one after the other."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
import processes_making as making

for job in json.loads(Path(sys.argv[1]).read_text()):
    folder = Path(job.pop("folder"))
    models, labels = Path(job.pop("models")), Path(job.pop("labels"))
    making.run(folder=folder, models=models, labels=labels, processes=2, **job)

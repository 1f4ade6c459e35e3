"""All benchmarks, one after the other; what they print goes into RESULTS.md."""

import subprocess
import sys
from pathlib import Path

for script in ("startup.py", "embedded.py", "training.py"):
    print(f"## {script}\n", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).parent / script)], check=True)

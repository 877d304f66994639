"""Turn a folder of ledger files into a frame, or read and sort the same bytes with NumPy alone.

`ledger_child.py frame|sort FOLDER` prints seconds and peak RSS in MB.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from bench import ledger

folder = Path(sys.argv[2])
began_s = perf_counter()
if sys.argv[1] == "frame":
    found = len(ledger.per_task(ledger.read(folder).records))
else:
    records = np.concatenate([np.fromfile(path, ledger.EVENT) for path in folder.glob("*.events")])
    found = len(np.lexsort((records["t_ns"], records["task"])))
took_s = perf_counter() - began_s
assert found > 0
print(took_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)

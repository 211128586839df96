"""A trainer that fails on demand: what the real one never does when asked politely.

python stand_in.py FAULT METHOD --run DIR
"""

import json
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    fault, run_dir = sys.argv[1], Path(sys.argv[4])
    with (run_dir / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 1, "total_steps": 5, "loss": float("nan")}) + "\n")
        metrics.flush()
    if fault.isdigit():
        print("Working on it.")
        print(f"The reason is {fault}.", file=sys.stderr)
        return int(fault)
    if fault == "deaf":  # hears SIGTERM and goes on
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if fault == "polite":  # saves and stops
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    while True:
        time.sleep(0.05)


sys.exit(main())

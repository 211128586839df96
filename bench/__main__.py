"""Run the measurements and print what came out, one line each.

python -m bench [handout] [labelers] [next-task] [page] [sampling] [reward_speed] [dpo_speed]
"""

from __future__ import annotations

import sys

from bench import dpo_speed, handout, labelers, next_task, page, reward_speed, sampling

BENCHES = {
    "handout": handout.main,
    "labelers": labelers.main,
    "next-task": next_task.main,
    "page": page.main,
    "sampling": sampling.main,
    "reward_speed": reward_speed.main,
    "dpo_speed": dpo_speed.main,
}


def main() -> int:
    """Run the benches that are named, or all of them."""
    names = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"There is no bench {unknown[0]}; there are {', '.join(BENCHES)}.", file=sys.stderr)
        return 2
    for name in names:
        BENCHES[name]()
    return 0


sys.exit(main())

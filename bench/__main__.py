"""Run the measurements and print what came out, one line each.

python -m bench [handout] [labelers] [next-task] [page] [quality] [sampling] [reward_speed] [dpo_speed] [sft_speed]
                [ppo-speed] [parity] [growth] [demo-steps]
                [downloads] [export [RANKINGS]]
                [snapshot [RANKINGS]] [import [COMPARISONS]] [label-studio [COMPARISONS]]
                [hostile-files] [active-selection]
                [science-grouping] [science-policies] [science-plots] [science-hh] [gpu] [gpu-race] [processes] [shard]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from bench import (
    active_selection,
    demo_steps,
    downloads,
    dpo_speed,
    export,
    gpu,
    gpu_race,
    growth,
    handout,
    hostile_files,
    imports,
    label_studio,
    labelers,
    next_task,
    page,
    parity,
    ppo_speed,
    processes,
    quality,
    reward_speed,
    sampling,
    science_grouping,
    science_hh,
    science_plots,
    science_policies,
    sft_speed,
    snapshot,
)

BENCHES: dict[str, Callable[[], None]] = {
    "handout": handout.main,
    "labelers": labelers.main,
    "next-task": next_task.main,
    "page": page.main,
    "sampling": sampling.main,
    "reward_speed": reward_speed.main,
    "dpo_speed": dpo_speed.main,
    "sft_speed": sft_speed.main,
    "ppo-speed": ppo_speed.main,
    "parity": parity.main,
    "growth": growth.main,
    "demo-steps": demo_steps.main,
    "gpu": gpu.main,
    "gpu-race": gpu_race.main,
    "processes": processes.main,
    "shard": processes.shared,
    "export": export.main,
    "downloads": downloads.main,
    "quality": quality.main,
    "snapshot": snapshot.main,
    "import": imports.main,
    "label-studio": label_studio.main,
    "hostile-files": hostile_files.main,
    "active-selection": active_selection.main,
    "science-grouping": science_grouping.main,
    "science-policies": science_policies.main,
    "science-hh": science_hh.main,
    "science-plots": science_plots.main,
}
SIZED: dict[str, Callable[[int], None]] = {
    "export": export.main,
    "snapshot": snapshot.main,
    "import": imports.main,
    "label-studio": label_studio.main,
    "hostile-files": hostile_files.main,
}
"""Benches that take a number: of rankings, of comparisons, or of GiB."""


def main() -> int:
    """Run the benches that are named, or all of them."""
    names = sys.argv[1:] or list(BENCHES)
    if len(names) > 1 and names[1].isdecimal() and names[0] in SIZED:
        SIZED[names[0]](int(names[1]))
        return 0
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"There is no bench {unknown[0]}; there are {', '.join(BENCHES)}.", file=sys.stderr)
        return 2
    for name in names:
        BENCHES[name]()
    return 0


sys.exit(main())

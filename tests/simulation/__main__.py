"""Run many histories: python -m tests.simulation --histories 10000 --seed 1 --jobs 2."""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import sys
import time
import warnings
from collections.abc import Iterator

from tests.simulation.plan import make_plan
from tests.simulation.world import World

PROGRESS_S = 2.0
# Worlds are full of cycles, and of engines: collected in bulk, but before memory runs short.
COLLECT_EVERY = 2
_M_MMAP_THRESHOLD = -3  # malloc.h


def run_one(seed: int) -> tuple[int, list[str]]:
    """Return the seed and what was violated."""
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    return seed, World(make_plan(seed)).run().violations


def results(seeds: range, jobs: int) -> Iterator[tuple[int, list[str]]]:
    """Run the histories of some seeds, in any order."""
    # Who is killed leaves tasks that have not begun.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    gc.disable()
    gc.freeze()
    _map_large_arrays()
    if jobs == 1:
        yield from map(run_one, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(run_one, seeds, chunksize=20)


def _map_large_arrays() -> None:
    """Let glibc map every large array anew: used memory would have to be cleared, a third of all.

    An engine reserves its arrays at capacity, and hardly touches them.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 2**18)


def show(seed: int) -> None:
    """Print the plan of a history, and all that happened in it."""
    world = World(make_plan(seed)).run()
    plan = world.plan
    print(
        f"seed {seed}: {plan.n_replicas} replicas, {len(plan.batches)} clients,"
        f" {'a forgetful' if plan.is_forgetful else 'a faithful'} store,"
        f" faults {plan.faults.kinds} shuffle {plan.shuffle}"
    )
    for at_s, text in world.trace:
        print(f"{at_s:9.4f}  {text}")
    print("\n".join(["", *world.violations]) if world.violations else "\nall promises kept")


def main() -> int:
    """Run what the command line asks for; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="of the first one; the others follow")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--keep-going", action="store_true", help="count failures, show the first")
    parser.add_argument("--show", action="store_true", help="print the history of --seed alone")
    options = parser.parse_args()
    if options.show:
        show(options.seed)
        return 0
    begin = told = time.monotonic()
    failed: dict[int, list[str]] = {}
    n = 0
    for seed, violations in results(
        range(options.seed, options.seed + options.histories), options.jobs
    ):
        n += 1
        if violations:
            failed[seed] = violations
            print(f"seed {seed}: {violations[0]:.200}", file=sys.stderr)
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            rate = n / (told - begin)
            print(f"{n:,} histories, {rate:.0f} a second, {len(failed)} failed", file=sys.stderr)
        if failed and not options.keep_going:
            break
    if failed:
        show(min(failed))
    print(f"{n:,} histories in {time.monotonic() - begin:.0f} s, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""What is compiled or loaded before the first request."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# What only River's models, and tests, call from Python; in the blend it is part of other kernels.
APART = {
    *("blend_learn", "blend_totals", "situation_of", "softmax", "weigh", "mix"),
    *("covisit_learn", "sequence_learn", "factors_learn", "trending_learn"),
    *("factors_choose", "factors_score", "next_draw", "user_vector", "damp_sums"),
    *("trending_nominate", "trending_score", "profile_of", "rank_of", "sum_labels"),
    *("handle_of", "is_live", "is_repeat", "mark_kept"),
}
LISTED = """
import ast, pathlib
import app.rule_kernels, learners.kernels
from app.warm_up import warm_up
warm_up()
modules = {"kernels": learners.kernels, "rule_kernels": app.rule_kernels}
for folder in ("app", "learners"):
    for path in pathlib.Path(folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
                continue
            kernel = getattr(modules.get(node.value.id), node.attr, None)
            if hasattr(kernel, "signatures") and not kernel.signatures:
                print(node.attr)
"""

COMPILED_AGAIN = """
import learners.kernels
from app import snapshot
from app.warm_up import warm_up
from tests.factories import click, feed, make_engine, restore

def signatures():
    kernels = vars(learners.kernels).items()
    return {name: len(k.signatures) for name, k in kernels if hasattr(k, "signatures")}

def taken(engine):
    return snapshot.load([snapshot.dump(engine.state(), "s")])

warm_up()
before = signatures()
engine = make_engine()
states = [taken(engine)]
for user in "abc":
    feed(engine, [click(user, "x"), click(user, "y", at_s=1)])
    states.append(taken(engine))
for state in states:
    restore(engine, state)
    engine.hashes()
print(*(name for name, n in signatures().items() if n != before[name]))
"""


def test_no_kernel_is_compiled_again_where_there_are_few_rows() -> None:
    """To numba, none or one of what lies apart lies together: another kind of array."""
    found = subprocess.run(
        [sys.executable, "-c", COMPILED_AGAIN], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.split() == []


def test_no_kernel_is_left_for_the_first_request() -> None:
    """After the warm-up every kernel that is called from Python is there, but those of River."""
    found = subprocess.run(
        [sys.executable, "-c", LISTED], capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) <= APART

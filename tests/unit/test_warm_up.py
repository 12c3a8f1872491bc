"""What is compiled or loaded before the first request."""

from __future__ import annotations

import subprocess
import sys

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


def test_no_kernel_is_left_for_the_first_request() -> None:
    """After the warm-up every kernel that is called from Python is there, but those of River."""
    found = subprocess.run(
        [sys.executable, "-c", LISTED], capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) <= APART

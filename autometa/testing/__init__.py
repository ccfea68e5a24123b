"""For tests of learners and backbones, the project's own and others': a conformance kit, and trials by a formula.

Nothing in autometa imports it, and it needs no test framework: a check that fails raises an `AssertionError` of one
sentence, which begins with the name of the check.
"""

from __future__ import annotations

from autometa.testing.backbones import check_backbone
from autometa.testing.learners import check_learner

__all__ = ["check_backbone", "check_learner"]

"""Every question and answer stands in the figure, answers side by side under their questions."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pellucid.render.decision_tree import Box, _laid, decision_tree

TREE = Box("is it large?", no=Box("none\n9 of 9"), yes=Box("is it left?", no=Box("spot\n3 of 4", kind=1), yes=Box("none\n5 of 5")))  # fmt: skip


def test_boxes_lie_side_by_side_and_questions_over_the_middle() -> None:
    placed = {p.box.text: p for p in _laid(TREE, 0, 0)}
    assert [(placed[t].x, placed[t].level) for t in ("none\n9 of 9", "spot\n3 of 4", "none\n5 of 5")] == [(0, 1), (1, 2), (2, 2)]  # fmt: skip
    assert (placed["is it left?"].x, placed["is it large?"].x) == (1.5, 0.75)
    assert (placed["spot\n3 of 4"].parent, placed["spot\n3 of 4"].branch) == ((1.5, 1), "no")
    assert (placed["is it left?"].parent, placed["is it left?"].branch) == ((0.75, 0), "yes")


def test_the_figure_grows_with_the_tree_and_repeats() -> None:
    small, large = (Image.open(io.BytesIO(decision_tree(t, format="png"))) for t in (TREE.no, TREE))
    assert large.width > small.width
    assert large.height > 2 * small.height
    assert decision_tree(TREE) == decision_tree(TREE)
    assert decision_tree(TREE).startswith(b"<?xml")
    assert (np.asarray(large.convert("L")) < 128).sum() > 500


def test_names_are_not_read_as_mathematics() -> None:
    assert decision_tree(Box("$x_1$\n3 of 3"))

"""Pieces of source weights: what they join to, what does not fit, and what no piece takes."""

import numpy as np
import pytest

from trtllm_ext.checkpoint.convert.pieces import Piece, rows, stack, unused_part
from trtllm_ext.errors import CheckpointError

BUDGET_S = 1

E, H, F = 3, 10, 14  # experts, hidden, twice the feed-forward width
A, B = Piece("matrix", (F, H)), Piece("experts", (E, H, F))


def test_joined_shapes():
    q, k = Piece("q", (8, 4)), Piece("k", (2, 4))
    assert rows(q, k, k).shape == (12, 4)
    assert stack(k, k, k).shape == (3, 2, 4)
    assert stack(rows(q, k), rows(q, k)).shape == (2, 10, 4)
    assert [piece.name for piece in stack(rows(q, k), rows(k, q)).pieces] == ["q", "k", "k", "q"]
    assert stack(B.half(0, axis=1), B.half(1, axis=1)).shape == (2, E, H // 2, F)
    with pytest.raises(CheckpointError, match=r"shapes \(8, 4\), \(2, 4\) cannot be stacked"):
        stack(q, k)
    with pytest.raises(CheckpointError, match=r"shapes \(8, 4\), \(2, 5\) cannot follow each other"):
        rows(q, Piece("x", (2, 5)))
    with pytest.raises(CheckpointError, match=r"shapes \(\) cannot follow"):
        rows(Piece("n", ()))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (
            lambda: Piece("w", (7, 4)).half(0),
            r"w is expected in the shape \(7, 4\), and 7 along axis 0 of .*halves",
        ),
        (
            lambda: Piece("w", (7, 4)).transpose().half(0, axis=1),
            r"7 along axis 1 of \(4, 7\) does not .* halves",
        ),
        (
            lambda: Piece("w", (4, 7)).every_second(1),
            r"7 along axis -1 of \(4, 7\) does not split into pairs",
        ),
        (lambda: Piece("w", (6, 4)).half(0).half(1), r"3 along axis 0"),
        (lambda: Piece("w", (6, 4)).half(2), r"no part 2 of halves"),
        (lambda: Piece("w", (6, 4)).half(0, axis=2), r"no part 0 of halves along axis 2"),
        (lambda: Piece("w", (6,)).transpose(), r"w of shape \(6,\) has no two axes to swap"),
    ],
)
def test_views_that_do_not_fit(view, message):
    with pytest.raises(CheckpointError, match=message):
        view()


@pytest.mark.parametrize(
    ("uses", "left"),
    [
        ([A], ""),
        ([A.half(0), A.half(1)], ""),
        ([A.half(0), A.half(0), A], ""),
        ([A.every_second(0), A.every_second(1)], ""),
        ([A.half(0), A.half(1).every_second(0), A.half(1).transpose().every_second(1, axis=0)], ""),
        ([A.half(0)], "[7:14, :]"),
        ([A.every_second(1)], "[:, 0:9:2]"),
        ([A.half(1), A.every_second(1)], "[0:7, 0:9:2]"),
    ],
)
def test_what_no_use_takes(uses, left):
    assert unused_part(A.source_shape, [use.ranges for use in uses]) == left


def test_what_no_use_takes_against_counting():
    rng = np.random.default_rng(0)
    for _ in range(200):
        uses = []
        for _ in range(rng.integers(1, 4)):
            piece = Piece("w", (8, 12))
            for _ in range(rng.integers(0, 3)):
                step = piece.half if rng.integers(2) else piece.every_second
                piece = step(int(rng.integers(2)), axis=int(rng.integers(2)))
            uses.append(piece)
        taken = np.zeros((8, 12), bool)
        for piece in uses:
            piece.view(taken)[...] = True
        left = unused_part((8, 12), [piece.ranges for piece in uses])
        assert (left == "") == taken.all()

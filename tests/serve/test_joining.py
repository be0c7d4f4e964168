"""Requests joined to a batch and split again: what comes back to each is its own."""

import numpy as np
import pytest

from trtllm_ext.errors import InputError
from trtllm_ext.serve.joining import Extent, Joining

BUDGET_S = 1

STACK = Joining(inputs={"x": 0, "attention": 1}, outputs={"y": 0, "taps": 1}, limits=[(Extent(1), Extent(8))])
ENCODER = Joining(
    inputs={"ids": 0, "mask": 0},
    outputs={"states": 0, "vector": 0},
    padded={"ids": (1,), "mask": (1,), "states": (1,)},
    limits=[(Extent(1, 1), Extent(4, 16)), (Extent(1, 17), Extent(2, 64))],
    max_cells=64,
)


def stack_request(rows, seed):
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(rows, 3)), "attention": rng.normal(size=(2, rows, 3))}


def test_tokens_are_packed_and_dealt_out_again():
    requests = [stack_request(rows, rows) for rows in (1, 4, 2)]
    extents = [STACK.extent(request) for request in requests]
    batch = STACK.join(list(zip(requests, extents, strict=True)))
    assert batch["x"].shape == (7, 3) and batch["attention"].shape == (2, 7, 3)
    answers = STACK.split({"y": 2 * batch["x"], "taps": batch["attention"] + 1}, extents)
    for request, answer in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(answer["y"], 2 * request["x"])
        np.testing.assert_array_equal(answer["taps"], request["attention"] + 1)


def test_sentences_are_padded_with_zeros_and_cut_to_their_own_length():
    requests = [
        {"ids": np.full((rows, length), length), "mask": np.ones((rows, length))}
        for rows, length in ((1, 3), (2, 5))
    ]
    extents = [ENCODER.extent(request) for request in requests]
    batch = ENCODER.join(list(zip(requests, extents, strict=True)))
    np.testing.assert_array_equal(batch["ids"], [[3, 3, 3, 0, 0], [5] * 5, [5] * 5])
    np.testing.assert_array_equal(batch["mask"].sum(1), [3, 5, 5])
    states = np.stack([batch["ids"]] * 2, axis=-1)
    first, second = ENCODER.split({"states": states, "vector": batch["ids"][:, :1]}, extents)
    assert first["states"].shape == (1, 3, 2) and second["states"].shape == (2, 5, 2)
    assert (
        (first["states"] == 3).all()
        and first["vector"].tolist() == [[3]]
        and second["vector"].tolist() == [[5], [5]]
    )


def test_one_profile_must_take_the_whole_batch():
    assert ENCODER.fits(Extent(4, 16)) and ENCODER.fits(Extent(1, 64))
    assert not ENCODER.fits(Extent(3, 20)), "the second profile takes two rows"
    assert not ENCODER.fits(Extent(5, 4)) and not ENCODER.fits(Extent(2, 40)), "more cells than are joined"
    assert ENCODER.most_rows() == 4
    assert STACK.fits(Extent(8)) and not STACK.fits(Extent(9))


@pytest.mark.parametrize(
    ("length", "other", "same"), [(5, 8, True), (8, 9, False), (1, 2, False), (3, 4, True)]
)
def test_lengths_up_to_the_same_power_of_two_go_together(length, other, same):
    assert (ENCODER.group(Extent(1, length)) == ENCODER.group(Extent(1, other))) is same


def test_inputs_that_disagree_are_told():
    with pytest.raises(InputError, match="rows: 3 in input 'x' but 4 in input 'attention'"):
        STACK.extent({"x": np.zeros((3, 3)), "attention": np.zeros((2, 4, 3))})
    with pytest.raises(InputError, match="length: 5 in input 'ids' but 6 in input 'mask'"):
        ENCODER.extent({"ids": np.zeros((1, 5)), "mask": np.zeros((1, 6))})

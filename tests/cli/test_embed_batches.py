"""How sentences are grouped into runs of the engine."""

from hypothesis import given
from hypothesis import strategies as st

from trtllm_ext.cli.sentence_encoder import batches

BUDGET_S = 10


@given(st.lists(st.integers(1, 512), max_size=60), st.integers(1, 2048))
def test_every_sentence_is_in_one_batch_within_the_limits(lengths, most_rows):
    made = list(batches(lengths, most_rows))
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    for batch in made:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert len(batch) <= most_rows
        assert padded <= 8192 or len(batch) == 1


def test_as_few_batches_as_the_limits_allow():
    assert [len(batch) for batch in batches([8] * 10, 4)] == [4, 4, 2]
    assert [len(batch) for batch in batches([512] * 40, 2048)] == [16, 16, 8]
    assert list(batches([], 4)) == []

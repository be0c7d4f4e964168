"""Damaged checkpoint files: never a crash, a hang, or an acceptance of other values than were written."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtllm_ext.checkpoint import load_whole
from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.errors import CheckpointError
from trtllm_ext.models import sublayer_stack_config
from trtllm_ext.models.random import write_random_checkpoint

BUDGET_S = 10
EXAMPLES = 120
LONG_EXAMPLES = 20_000


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def original(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "c"
    config = sublayer_stack_config(hidden_size=4, ffn_hidden_size=6, num_hidden_layers=2, dtype="bfloat16")
    write_random_checkpoint(folder, with_ranks(config, request.param), seed=5)
    return folder, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}, load(folder)


def load(folder):
    """Every rank's file is read and checked."""
    checkpoint = load_whole(folder)
    return checkpoint.config, {name: values.tobytes() for name, values in checkpoint.weights.items()}


def damage(data, kind, place, value):
    """One change to the bytes: a flipped bit, another byte, a cut, an insertion, a doubled stretch."""
    place %= len(data)
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ (1 << value % 8)]) + data[place + 1 :]
    if kind == "byte":
        return data[:place] + bytes([value]) + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    if kind == "insert":
        return data[:place] + bytes([value]) + data[place:]
    return data[:place] + data[place : place + value] + data[place:]


def check(original, file, kind, place, value):
    folder, files, expected = original
    file = sorted(files)[file % len(files)]
    (folder / file).write_bytes(damage(files[file], kind, place, value))
    try:
        accepted = load(folder)
    except CheckpointError as error:
        assert file in str(error)
    else:
        # Only what changes nothing may pass, such as another kind of white space.
        assert accepted == expected
    finally:
        (folder / file).write_bytes(files[file])


CASES = {
    "file": st.integers(0, 5),
    "kind": st.sampled_from(["flip", "byte", "cut", "insert", "repeat"]),
    "place": st.integers(0, 1 << 20),
    "value": st.integers(0, 255),
}


@given(**CASES)
@settings(max_examples=EXAMPLES, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_found(original, file, kind, place, value):
    check(original, file, kind, place, value)


@pytest.mark.long
@given(**CASES)
@settings(
    max_examples=LONG_EXAMPLES, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_is_found_at_length(original, file, kind, place, value):
    check(original, file, kind, place, value)

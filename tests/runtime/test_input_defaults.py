"""Inputs that a run may leave out: what they are given, out of how much memory, and what is refused by name."""

import numpy as np
import pytest
from fake_devices import Counted, HostDevice
from operated import engine_of, model_of, session_of
from stack_forms import HIDDEN, TABLE, config_of

import trtllm_ext as tx
from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.runtime import cuda, memory, session
from trtllm_ext.runtime.input_defaults import InputDefault, defaults_of
from trtllm_ext.runtime.tensor_info import TensorInfo

BUDGET_S = 2

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS, MOST = 3, 32
ADD, SCALE = (f"transformer.layers.1.mlp.contribution.{what}" for what in ("add", "scale"))


@pytest.fixture(scope="module")
def engine():
    return engine_of(model_of(config_of(TABLE["gpt2"], layers=LAYERS)), max_num_tokens=MOST)


@pytest.fixture(scope="module")
def directory(engine, tmp_path_factory):
    path = tmp_path_factory.mktemp("built") / "engine"
    engine.save(path)
    return path


@pytest.fixture
def made(directory):
    with tx.Session.from_engine_dir(directory) as opened:
        yield opened


def tokens(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, HIDDEN)).astype(np.float32)


def addresses(made):
    return {name: port.address for name, port in made._bindings.inputs.items()}


def test_all_of_a_value_and_type_are_one_block_that_grows_and_stays(made):
    for count, size in ((4, 4), (4, 4), (9, 9), (3, 9), (10, 18), (MOST, 36)):
        made.run({"hidden_states": tokens(count)})
        blocks = {array.size for array in made._bindings.left_out._blocks.values()}
        assert blocks == {1, size * HIDDEN}
        found = addresses(made)
        assert len({found[name] for name in found if name.endswith(".add")}) == 1
        assert len({found[name] for name in found if name.endswith(".scale")}) == 1
        assert len(made.input_defaults) == 4 * LAYERS


def test_a_run_with_the_same_lengths_makes_no_array_anew(made):
    x = tokens(5)
    made.run({"hidden_states": x})
    first = made._bindings.inputs[ADD].last()
    given = np.ones((5, HIDDEN), np.float32)
    changed = made.run({"hidden_states": x, ADD: given})["hidden_states_out"]
    assert made._bindings.inputs[ADD].last() is given
    again = made.run({"hidden_states": x})["hidden_states_out"]
    assert made._bindings.inputs[ADD].last() is first
    assert np.abs(changed - again).max() > 0.1


def test_what_is_left_out_is_written_to_a_device_once(engine, monkeypatch):
    device = Counted(HostDevice())
    monkeypatch.setattr(cuda, "device_buffers", lambda: device)
    monkeypatch.setattr(session, "HostMemory", memory.DeviceMemory)
    x = tokens(6)
    with session_of(engine) as made:
        expected = made.run({"hidden_states": x})["hidden_states_out"]
        assert device.uploads == 1 + 2
        made.run({"hidden_states": x})
        assert device.uploads == 2 + 2
        changed = made.run({"hidden_states": x, SCALE: np.zeros(1, np.float32)})["hidden_states_out"]
        assert np.abs(changed - expected).max() > 0.1
        got = made.run({"hidden_states": tokens(12)[:6].copy()})["hidden_states_out"]
        made.run({"hidden_states": tokens(12)})
        assert got.shape == expected.shape
        assert (
            len(device.buffers) == 1 + 1 + 1 + 1 + 2
        )  # x, the output, one scale, a longer block, both blocks
    assert not device.buffers


def test_shapes_are_told_without_them(made):
    (output,) = made.set_shapes({"hidden_states": (7, HIDDEN)})
    assert output.shape == (7, HIDDEN)
    info = next(each for each in made.inputs if each.name == "hidden_states")
    (output,) = made.infer_shapes([TensorInfo(info.name, info.dtype, (8, HIDDEN))])
    assert output.shape == (8, HIDDEN)
    assert ADD in {each.name for each in made.inputs}


def test_telling_shapes_leaves_alone_what_a_run_in_another_thread_is_given(made):
    made.run({"hidden_states": tokens(5)})
    given = made._bindings.left_out._values
    made.set_shapes({"hidden_states": (7, HIDDEN)})
    info = next(each for each in made.inputs if each.name == "hidden_states")
    made.infer_shapes([TensorInfo(info.name, info.dtype, (8, HIDDEN))])
    assert made._bindings.left_out._values is given


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({ADD: np.zeros((4, HIDDEN), np.float32)}, r"num_tokens is 5 in input 'hidden_states' but 4 in input '.*add'"),
        ({ADD: np.zeros((5, HIDDEN - 1), np.float32)}, r"input '.*1\.mlp\.contribution\.add' has shape \(5, 15\); .*"
         r"\(hidden_size\) is 15, allowed 16"),
        ({ADD: np.zeros((5, HIDDEN))}, r"input '.*\.add' has type float64; expected float32"),
        ({SCALE: np.ones(2, np.float32)}, r"input '.*\.scale' has shape \(2,\)"),
        ({SCALE: 0.5}, r"input '.*\.scale' is a float; expected a numpy array"),
        ({f"{SCALE}d": np.ones(1, np.float32)}, r"unknown input '.*scaled'\. Did you mean transformer\.layers\.1\.mlp\."
         r"contribution\.scale.*The engine takes: hidden_states float32 .*; and, where a run asks for it, .* 9 more"),
        ({"hidden_states": tokens(5)[0]}, r"input 'hidden_states' has 1 dimensions"),
        ({"hidden_states": tokens(MOST + 1)}, r"input 'hidden_states' has shape \(33, 16\); the engine allows"),
        ({"hidden_states": [1.0]}, "input 'hidden_states' is a list"),
    ],
)  # fmt: skip
def test_what_is_refused_by_name(made, more, said):
    with pytest.raises(InputError, match=said):
        made.run({"hidden_states": tokens(5), **more})
    assert made.run({"hidden_states": tokens(5)})["hidden_states_out"].shape == (5, HIDDEN)


def test_what_is_missing_is_the_models_own(made, engine):
    with pytest.raises(
        InputError, match=r"input 'hidden_states' is missing\. The engine takes: hidden_states"
    ):
        made.run({ADD: np.zeros((5, HIDDEN), np.float32)})
    # Without the config nothing can be left out: a buffer alone does not say what to give.
    with tx.Session.from_serialized_engine(engine.engine) as alone:
        assert alone.input_defaults == {}
        with pytest.raises(InputError, match="is missing"):
            alone.run({"hidden_states": tokens(5)})


def test_a_length_beyond_all_profiles_takes_no_memory(made):
    with pytest.raises(InputError, match="the engine allows"):
        made.set_shapes({"hidden_states": (1 << 30, HIDDEN)})
    huge = np.lib.stride_tricks.as_strided(tokens(1), (1 << 30, HIDDEN), (0, 4))
    with pytest.raises(InputError, match=r"not contiguous|the engine allows"):
        made.run({"hidden_states": huge})
    assert max(block.size for block in made._bindings.left_out._blocks.values()) <= MOST * HIDDEN


def test_a_closed_session_says_so(engine):
    made = session_of(engine)
    made.close()
    with pytest.raises(EngineError, match="this session is closed"):
        made.run({"hidden_states": tokens(5)})


@pytest.mark.parametrize("value", [3, {}, {"value": "x", "shape": []}, {"value": 1, "shape": [["a"]]}])
def test_a_damaged_default(value):
    with pytest.raises(
        EngineError, match="for an input that a run may leave out, where value and shape are expected"
    ):
        defaults_of({"surgery": {"a": {"inputs": {"a.add": value}}}})
    with pytest.raises(EngineError, match="as surgery, where each name has inputs"):
        defaults_of({"surgery": value if isinstance(value, int) else {"a": value}})


def test_the_json_form():
    default = InputDefault(-0.0, (("hidden_states", 0), 16))
    assert InputDefault.from_json(default.to_json()) == default
    assert defaults_of({}) == {}

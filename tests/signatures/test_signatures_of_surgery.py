"""Surgery on TensorRT 8.6, 10.14 and 11.4: every call is in the release's bindings, and the numbers stay the same."""

import numpy as np
import pytest
from dressed_tensorrt import dressed, recorded
from encoder_formulas import sentences, small_config
from operated import engine_of, model_of, random_changes, run
from stack_forms import TABLE, config_of, random_input
from tensorrt_surface import releases

BUDGET_S = 3

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_same_on_all(config, inputs, tolerance, chosen, **settings):
    """Runs that leave the inputs out, and runs that change all there is."""
    model = model_of(config)

    def outputs():
        engine = engine_of(model, **settings)
        return [run(engine, {**inputs, **more}) for more in ({}, random_changes(engine, inputs))]

    with recorded():
        expected = outputs()
    for release in chosen:
        with dressed(release, "tensorrt"):
            found = outputs()
        for got, known in zip(found, expected, strict=True):
            assert got.keys() == known.keys(), release
            for name, value in known.items():
                wide = value.astype(np.float64)
                difference = np.abs(got[name].astype(np.float64) - wide).max()
                assert difference <= tolerance * np.abs(wide).max(), (release, name)


# 8.6 has no bfloat16.
@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        ("every factor", "float16", 2e-3),
        pytest.param("hyper_dynamic", "float32", 1e-6, marks=pytest.mark.long),
    ],
)
def test_stacks(name, dtype, tolerance):
    config = config_of(TABLE[name], dtype, layers=1)
    settings = {"max_num_tokens": 32, "taps": ["*"]}
    assert_same_on_all(config, {"hidden_states": random_input(config)}, tolerance, releases(), **settings)


@pytest.mark.long
def test_encoders():
    assert_same_on_all(small_config(), sentences(), 1e-6, releases())

"""The file of a known answer: types come back, and what is not such a file is refused with the reason."""

import ml_dtypes
import numpy as np
import pytest

from trtllm_ext.errors import EngineError
from trtllm_ext.runtime.ranks.self_test import SELF_TEST_NAME, SelfTest, read_self_test, write_self_test

BUDGET_S = 2
BUILD_ID = "ab" * 16


def known():
    values = np.arange(6).reshape(2, 3)
    return SelfTest(
        BUILD_ID,
        {
            "header": values.astype(np.float32),
            "file": values.astype(np.int32),
            "none": np.zeros((0, 3), bool),
        },
        {
            "header": (values / 7).astype(np.float16),
            "transformer.layers.0.out/put": (values / 7).astype(ml_dtypes.bfloat16),
            "scalar": np.array(3, np.int64),
        },
    )


def test_arrays_of_every_type_come_back(tmp_path):
    write_self_test(tmp_path, known())
    back = read_self_test(tmp_path, BUILD_ID)
    assert back.build_id == BUILD_ID
    for kind in ("inputs", "outputs"):
        expected, got = getattr(known(), kind), getattr(back, kind)
        assert list(got) == list(expected)
        for name, array in expected.items():
            assert got[name].dtype == array.dtype
            assert got[name].shape == array.shape
            np.testing.assert_array_equal(got[name], array)


def test_another_build_is_refused(tmp_path):
    write_self_test(tmp_path, known())
    with pytest.raises(EngineError, match=f"belongs to the build {BUILD_ID}, the engine to {'cd' * 16}"):
        read_self_test(tmp_path, "cd" * 16)


def test_no_file(tmp_path):
    with pytest.raises(EngineError, match=r"self_test\.npz does not exist.*--no_self_test"):
        read_self_test(tmp_path, BUILD_ID)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.95])
def test_damage(tmp_path, place):
    write_self_test(tmp_path, known())
    path = tmp_path / SELF_TEST_NAME
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * place)])
    with pytest.raises(EngineError, match=r"self_test\.npz cannot be read"):
        read_self_test(tmp_path, BUILD_ID)


def test_every_flipped_bit_is_seen_or_harmless(tmp_path):
    write_self_test(tmp_path, known())
    path = tmp_path / SELF_TEST_NAME
    data = path.read_bytes()
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        try:
            back = read_self_test(tmp_path, BUILD_ID)
        except EngineError:
            continue
        for kind in ("inputs", "outputs"):
            for name, array in getattr(known(), kind).items():
                np.testing.assert_array_equal(getattr(back, kind)[name], array)


@pytest.mark.parametrize("name", ["foreign", "pickled", "single"])
def test_foreign_files(tmp_path, name):
    path = tmp_path / SELF_TEST_NAME
    with path.open("wb") as file:
        if name == "single":
            np.save(file, np.zeros(3))
        else:
            np.savez(file, header=np.array([{}] if name == "pickled" else [1.0]))
    with pytest.raises(EngineError, match="cannot be read"):
        read_self_test(tmp_path, BUILD_ID)


def test_a_type_that_no_engine_has(tmp_path):
    with pytest.raises(ValueError, match="'x' has the type complex64"):
        write_self_test(tmp_path, SelfTest(BUILD_ID, {"x": np.zeros(2, np.complex64)}, {}))

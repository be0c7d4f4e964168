"""`verify_engine` through the API of TensorRT's releases: by the embedded engine dressed as each of them."""

import pytest
from dressed_tensorrt import dressed
from encoder_formulas import small_config
from verified_models import ALL, engine_of, stack, with_weight

from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.errors import ConfigError
from trtllm_ext.models.random import write_random_checkpoint
from trtllm_ext.verify import verify_engine

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")

TABLE = "transformer.embedding.vocab_embedding.weight"
PROJ = "transformer.layers.1.mlp.proj.weight"


@pytest.mark.parametrize(
    ("release", "dtype"),
    [
        ("8.6.1", "float16"),
        pytest.param("10.14", "float32", marks=pytest.mark.long),
        ("11.4", "float32"),
    ],
)
def test_right_and_wrong_engines(tmp_path, release, dtype):
    found = stack(tmp_path / "stack", dtype, num_hidden_layers=2)
    write_random_checkpoint(tmp_path / "encoder", small_config(dtype))
    sentence_encoder = load_checkpoint(tmp_path / "encoder")
    with dressed(release, "tensorrt"):
        engine = engine_of(found, ALL)
        right = verify_engine(engine, found, bisect=True)
        assert right.is_right, right.verdict
        # TF32 is allowed by default.
        assert right.rows[0].tolerance == {"float32": 5e-3, "float16": 1e-2}[dtype]
        wrong = verify_engine(engine, with_weight(found, PROJ, 2.0))
        assert (wrong.is_right, wrong.sublayer) == (False, "transformer.layers.1.mlp")
        # NVIDIA's engines do not tell their weights.
        assert (wrong.weights_that_differ, wrong.weights) == ((), "unknown")
        assert any("they cannot be compared with the checkpoint's" in note for note in wrong.notes)
        assert "--bisect tells whether it is the library." in wrong.verdict
        with pytest.raises(ConfigError, match="--checkpoint_dir"):
            verify_engine(engine)
        limits = {"max_batch_size": 4, "max_input_len": 12}
        encoder = engine_of(sentence_encoder, ("*.0.*",), **limits)
        # What the first sublayer finds before it is the embedding's work.
        other = with_weight(sentence_encoder, TABLE, 9.0, slice(None))
        assert verify_engine(encoder, other).sublayer == "transformer.embedding"


def test_tolerances_without_tf32(tmp_path):
    found = stack(tmp_path / "c")
    with dressed("8.6.1", "tensorrt"):
        report = verify_engine(engine_of(found, tf32=False), found)
    assert report.rows[0].tolerance == 1e-3

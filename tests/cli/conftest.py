"""An engine of the trained sentence encoder, for sentences of at most 16 tokens, two at a time."""

import pytest

from trtllm_ext.cli import main as cli


@pytest.fixture(scope="session")
def encoder_checkpoint(minilm_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "checkpoint"
    assert cli.main(["convert", "--model_dir", str(minilm_dir), "--output_dir", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def build_encoder(encoder_checkpoint, tmp_path_factory):
    """build(max_input_len) -> an engine directory."""

    def build(max_input_len):
        path = tmp_path_factory.mktemp("engines") / "engine"
        limits = ["--max_batch_size", "2", "--max_input_len", str(max_input_len)]
        paths = ["--checkpoint_dir", str(encoder_checkpoint), "--output_dir", str(path)]
        assert cli.main(["build", *paths, *limits]) == 0
        return path

    return build


@pytest.fixture(scope="session")
def encoder(build_encoder):
    return build_encoder(16)

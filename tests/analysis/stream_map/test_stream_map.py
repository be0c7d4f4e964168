"""The map of our own checkpoints: every stored matrix is in it once, the right way round, whatever the ranks."""

from dataclasses import replace

import numpy as np
import pytest
from encoder_formulas import small_config
from stack_forms import FFN, HIDDEN, LAYER, RMS, SHARED, plain, residual, streams

from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.checkpoint import load_whole, stack_config
from trtllm_ext.errors import CheckpointError
from trtllm_ext.models import write_random_checkpoint
from trtllm_ext.parallel import Mapping

BUDGET_S = 2

FORMS = {
    "pre": plain(gated=True),
    "sandwich": plain(residual=residual("sandwich", LAYER, RMS, gate="tanh", scale=0.5)),
    "branch": plain(residual=residual("branch", RMS)),
    "post": plain(residual=residual("post"), inner_norm=RMS),
    "mixture": SHARED,
}


def written(folder, config, tp_size=1):
    config = replace(config, mapping=Mapping(world_size=tp_size, tp_size=tp_size))
    write_random_checkpoint(folder / "checkpoint", config, seed=3)
    return folder / "checkpoint"


def stack(form):
    return stack_config(
        form, hidden_size=HIDDEN, ffn_hidden_size=FFN, num_hidden_layers=2, final_norm=RMS, dtype="bfloat16"
    )


def rebuilt(found):
    """Stored names -> values, put together from the map's matrices and vectors alone."""
    weights = {}

    def put(item):
        values = item.load().astype(np.float64)
        begin = 0
        for piece in item.pieces:
            whole = weights.setdefault(piece.name, np.full(piece.source_shape, np.nan))
            view = piece.view(whole)
            count = view.size
            view[...] = values.reshape(-1)[begin : begin + count].reshape(view.shape)
            begin += count
        assert begin == values.size

    for part in found.parts:
        for item in (*part.readers, *part.writers):
            for each in (item.matrix, item.bias, item.gain, item.shift, getattr(item, "gate", None)):
                if each is not None:
                    put(each)
        for each in (part.norm.gain, part.norm.shift) if part.norm else ():
            if each is not None:
                put(each)
    return weights


def assert_whole(path, beside=()):
    found = read_stream_map(path)
    stored = load_whole(path).weights
    made = rebuilt(found)
    assert set(stored) - set(made) == set(beside)
    for name, values in made.items():
        np.testing.assert_array_equal(values, np.asarray(stored[name]).astype(np.float64), err_msg=name)
    return found


@pytest.mark.parametrize("name", FORMS)
def test_every_weight_of_a_stack_is_in_the_map(name, tmp_path):
    inner = [f"transformer.layers.{i}.mlp.inner_layernorm.weight" for i in range(2)] if name == "post" else []
    found = assert_whole(written(tmp_path, stack(FORMS[name])), inner)
    form = FORMS[name]
    for part, reader in found.readers():
        assert reader.matrix.shape[1] == HIDDEN == part.readers[0].matrix.shape[1]
        assert (reader.norm is not None) == (form.residual.placement in ("pre", "sandwich"))
    for _, writer in found.writers():
        assert writer.matrix.shape[0] == HIDDEN
        assert (writer.norm is not None) == (form.residual.placement in ("branch", "sandwich"))
        assert (writer.gate is not None) == (form.residual.gate != "none")
        assert writer.scale == form.residual.scale
    assert [part.norm is not None for part in found.parts] == [name == "post"] * 2 + [True]
    assert found.parts[-1].kind == "final_norm"
    assert bool(found.parts[0].remarks) == (name in ("post", "mixture"))


def test_an_encoder_of_two_ranks_is_joined(tmp_path):
    path = written(tmp_path, small_config(), tp_size=2)
    found = assert_whole(path)
    assert [part.kind for part in found.parts[:3]] == ["embedding", "attention", "mlp"]
    assert [reader.role for reader in found.parts[1].readers] == ["q", "k", "v"]
    assert [part.norm is not None for part in found.parts[:3]] == [True] * 3


def test_gains_are_given_as_they_are_used(tmp_path):
    path = written(tmp_path, stack(FORMS["sandwich"]))
    stored = load_whole(path).weights
    part = read_stream_map(path).parts[1]
    before = stored["transformer.layers.1.pre_feedforward_layernorm.weight"].astype(np.float64)
    np.testing.assert_array_equal(part.readers[0].gain(), before + 1)
    gate = stored["transformer.layers.1.mlp_scale.weight"].astype(np.float64)
    np.testing.assert_array_equal(part.writers[0].gate(), np.tanh(gate))


def test_hyper_connections_are_named_as_an_obstacle(tmp_path):
    form = plain(residual=residual(hyper_connections=streams("dynamic", 3)))
    found = read_stream_map(written(tmp_path, stack(form)))
    assert "hyper-connections of kind 'dynamic' mix 3 streams" in found.parts[0].obstacle
    assert "transformer.layers.0.mlp_connections.dynamic_alpha" in found.left_out


def test_a_damaged_weight_is_refused_when_it_is_read(tmp_path):
    path = written(tmp_path, stack(FORMS["pre"]))
    file = path / "rank0.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    found = read_stream_map(path)
    with pytest.raises(CheckpointError, match="is damaged"):
        rebuilt(found)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither a checkpoint directory .* nor a Hugging"):
        read_stream_map(tmp_path)

"""Models on several ranks: types, numbers of tokens, what is given beside, clamps, taps, and the Encoder."""

import numpy as np
import pytest
from encoder_formulas import formula, mean_pooled, sentences, small_config
from rank_modules import run_model_on_ranks, run_module_on_ranks, same_on_every_rank
from sampling import covered
from stack_forms import TABLE, checkpoint, config_of, random_input
from stack_formulas import stack
from stack_on_ranks import check_form
from sublayer_formulas import DTYPES, assert_close, set_random

import trtllm_ext as tx
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module
from trtllm_ext.layers import Residual
from trtllm_ext.models import (
    SublayerStack,
    model_from_checkpoint,
    model_from_config,
    write_random_checkpoint,
)
from trtllm_ext.models.layer import TransformerLayer

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")


NARROW = ["llama_swiglu", "inner_norm", "t5_clamped", "float32_stream", "wide parallel"]


@covered(dtype=["float16", "bfloat16"], name=NARROW)
def test_narrow_types(tmp_path, name, dtype):
    # Whole and dealt out take turns.
    sequence_parallel = (NARROW.index(name) + (dtype == "float16")) % 2 == 0
    check_form(tmp_path, name, 2, dtype, sequence_parallel=sequence_parallel)


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [
        ("gptj_parallel", 4, 1),
        ("gptj_parallel", 4, 4),
        ("gptj_parallel", 2, 8),
        ("mixture_softmax_shared", 4, 3),
    ],
)
def test_any_number_of_tokens(tmp_path, name, size, tokens):
    """Fewer than ranks, as many, a multiple, and one short of the ranks."""
    check_form(tmp_path, name, size, tokens=tokens, sequence_parallel=True)


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_attention_given_in_its_own_block(tmp_path, sequence_parallel):
    config = config_of(TABLE["t5_clamped"], layers=2, attention_input=True)
    wide = checkpoint(tmp_path / "c", config)
    inputs = {"hidden_states": random_input(config), "attention_output": random_input(config, 2, seed=5)}
    weights = load_checkpoint(tmp_path / "c").weights
    results = run_model_on_ranks(
        config, weights, inputs, 2, sequence_parallel=sequence_parallel, max_num_tokens=32
    )
    got = same_on_every_rank([each["hidden_states_out"] for each in results])
    assert_close(got, stack(config, wide, *inputs.values()), "float32", factor=2)


class _Given(Module):
    """Gives its second argument."""

    def forward(self, x, contribution):
        return contribution


class _Clamped(Module):
    """The clamped sum of two inputs whose tokens are dealt out."""

    def __init__(self, tp_group, tp_size):
        super().__init__()
        self.block = Residual(_Given(), clamp=True, token_group=tp_group)

    def forward(self, x, contribution):
        return self.block(x, contribution)


def test_a_clamp_looks_at_the_tokens_of_all_ranks():
    """One rank's token overflows: the other's, which does not, has the lower limit as well, as in the whole."""
    x = np.array([[60000.0, 1.0], [65504.0, -65504.0]], np.float16)
    for added, limit in (([60000.0, 0.0], 64512.0), ([0.0, 0.0], 65504.0)):
        contribution = np.array([added, [0.0, 0.0]], np.float16)
        inputs = [{"x": x[i : i + 1], "contribution": contribution[i : i + 1]} for i in range(2)]
        first, second = run_module_on_ranks(_Clamped, {}, inputs, 2, "float16")
        assert second.tolist() == [[limit, -limit]]
        assert first.tolist() == [[min(60000.0 + added[0], limit), 1.0]]


TAPPED = {"gpt2": {}, "hyper_dynamic": {}, "gptj_parallel": {"attention_input": True}}


@covered(dtype=["float32", "bfloat16"], name=TAPPED)
def test_taps_are_whole_on_every_rank(tmp_path, name, dtype):
    """Of tokens that are dealt out too: 7 of them, of which one rank has 4, the other 3 and one that stands in."""
    config = config_of(TABLE[name], dtype, layers=1, **TAPPED[name])
    checkpoint(tmp_path / "c", config)
    weights, inputs = load_checkpoint(tmp_path / "c").weights, {"hidden_states": random_input(config)[:7]}
    if config.contract.attention_input:
        inputs["attention_output"] = random_input(config, 1, seed=5)[:, :7]
    settings = {"max_num_tokens": 32, "taps": ["*"]}
    alone = run_model_on_ranks(config, weights, inputs, 1, **settings)[0]
    for sequence_parallel in (False, True):
        by_rank = run_model_on_ranks(
            config, weights, inputs, 2, sequence_parallel=sequence_parallel, **settings
        )
        assert set(by_rank[0]) == set(alone)
        assert {"transformer.layers.0.mlp.before", "transformer.layers.0.mlp.after"} < set(alone)
        for tap, whole in alone.items():
            got = same_on_every_rank([each[tap] for each in by_rank])
            assert got.dtype == whole.dtype
            assert_close(got, whole.astype(np.float64), dtype)


class _TellsNoNumber(SublayerStack):
    """Forgets what its forward has set."""

    def forward(self, hidden_states, attention_output=None):
        super().forward(hidden_states, attention_output)
        del self.num_tokens


def test_own_tokens_of_a_model_that_does_not_say_how_many_there_are():
    model = _TellsNoNumber(with_ranks(config_of(TABLE["gpt2"], layers=1), 2), sequence_parallel=True)
    set_random(model, "float32")
    with pytest.raises(ConfigError, match=r"mlp\.after is of one rank's own tokens.*Set num_tokens"):
        tx.build(model, tx.BuildConfig(dry_run=True, taps=["*.after"]))


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        pytest.param(2, "float32", marks=pytest.mark.long),
        (4, "float32"),
        (2, "float16"),
        (4, "bfloat16"),
    ],
)
def test_encoder(tmp_path, size, dtype):
    config = small_config(dtype)
    write_random_checkpoint(tmp_path / "c", config, seed=2)
    weights, inputs = load_checkpoint(tmp_path / "c").weights, sentences()
    results = run_model_on_ranks(config, weights, inputs, size, max_batch_size=4, max_input_len=20)
    wide = {name: weight.astype(np.float64) for name, weight in weights.items()}
    reference, real = formula(wide, inputs), inputs["attention_mask"] != 0
    # As on one rank: four residual blocks and the embedding, each with a norm that passes the error on.
    hidden = same_on_every_rank([each["last_hidden_state"] for each in results])
    assert hidden.dtype == DTYPES[dtype]
    assert_close(hidden[real], reference[real], dtype, factor=5)
    sentence = same_on_every_rank([each["sentence_embedding"] for each in results])
    assert_close(sentence, mean_pooled(reference, inputs["attention_mask"]), dtype, factor=5)


def test_a_pooler_is_whole_on_every_rank(tmp_path):
    config = small_config(kind="pooler", normalize=False)
    write_random_checkpoint(tmp_path / "c", config, seed=2)
    weights = load_checkpoint(tmp_path / "c").weights
    one, two = (
        run_model_on_ranks(config, weights, sentences(), size, max_batch_size=4, max_input_len=20)
        for size in (1, 2)
    )
    got = same_on_every_rank([each["sentence_embedding"] for each in two])
    assert_close(got, one[0]["sentence_embedding"].astype(np.float64), "float32", factor=5)


def test_what_sequence_parallelism_is_not_for():
    encoder = with_ranks(small_config(), 2)
    with pytest.raises(ConfigError, match=r"the Encoder's are a padded batch"):
        model_from_config(encoder, sequence_parallel=True)
    with pytest.raises(ConfigError, match=r"attention is on a padded batch and needs whole sentences"):
        TransformerLayer(encoder, sequence_parallel=True)


def test_on_one_rank_it_changes_nothing(tmp_path):
    config = config_of(TABLE["gpt2"], layers=1)
    write_random_checkpoint(tmp_path / "c", config)
    weights, x = load_checkpoint(tmp_path / "c").weights, {"hidden_states": random_input(config)}
    plain, dealt = (
        run_model_on_ranks(config, weights, x, 1, sequence_parallel=each, max_num_tokens=32)[0]
        for each in (False, True)
    )
    assert plain["hidden_states_out"].tobytes() == dealt["hidden_states_out"].tobytes()
    assert model_from_checkpoint(tmp_path / "c", sequence_parallel=True).sequence_parallel

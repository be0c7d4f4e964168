"""A form's SublayerStack on several ranks in this process, against the formulas of the whole."""

import numpy as np
from rank_modules import run_model_on_ranks, same_on_every_rank
from stack_forms import TABLE, checkpoint, config_of, random_input
from stack_formulas import stack
from sublayer_formulas import DTYPES, assert_close

from trtllm_ext.checkpoint import load_checkpoint

# Those with parts that are dealt out in another way, or that take more than the others.
APART = [
    name
    for name, form in TABLE.items()
    if form.mixture is not None or form.residual.hyper_connections is not None
]
PLAIN = [name for name in TABLE if name not in APART]


def check_form(path, name, size, dtype="float32", *, layers=1, tokens=None, **options):
    """Run a form on `size` ranks and compare with the formulas, which know of no ranks.

    A form whose attention is given beside it gets one. tokens: how many, where not TOKENS.
    The tolerance is that of one rank: partial sums are float32 in each type, and rounded where one rank's are.
    """
    form = TABLE[name]
    config = config_of(form, dtype, layers, attention_input=form.residual.parallel != "none")
    wide = checkpoint(path / "c", config)
    inputs = {"hidden_states": random_input(config)[:tokens]}
    if config.contract.attention_input:
        inputs["attention_output"] = random_input(config, layers, seed=5)[:, :tokens]
    weights = load_checkpoint(path / "c").weights
    results = run_model_on_ranks(config, weights, inputs, size, max_num_tokens=32, **options)
    got = same_on_every_rank([each["hidden_states_out"] for each in results])
    assert got.dtype == DTYPES[config.stream_dtype]
    reference = stack(config, wide, *(x.astype(np.float64) for x in inputs.values()))
    assert_close(got, reference, dtype, factor=layers)

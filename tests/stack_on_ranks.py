"""A form's SublayerStack on several ranks in this process, against the formulas of the whole."""

from dataclasses import dataclass

import numpy as np
from rank_modules import run_model_on_ranks, same_on_every_rank
from stack_forms import TABLE, config_of, random_input
from stack_formulas import stack
from sublayer_formulas import DTYPES, assert_close

from trtllm_ext.checkpoint import ModelConfig, load_checkpoint
from trtllm_ext.models import write_random_checkpoint


@dataclass(frozen=True)
class Problem:
    """A stack and what goes into it. config: of one rank; weights: whole ones, under the checkpoint's names."""

    config: ModelConfig
    weights: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]

    def reference(self):
        """hidden_states_out by the formulas, in float64."""
        wide = {name: value.astype(np.float64) for name, value in self.weights.items()}
        return stack(self.config, wide, *(x.astype(np.float64) for x in self.inputs.values()))


def problem_of(path, name, dtype="float32", layers=1, tokens=None):
    """A form's, with the same values at every call. path: a folder for its checkpoint; tokens: where not TOKENS.

    A form whose attention is given beside it gets one.
    """
    form = TABLE[name]
    config = config_of(form, dtype, layers, attention_input=form.residual.parallel != "none")
    write_random_checkpoint(path / "c", config, seed=1)
    inputs = {"hidden_states": random_input(config)[:tokens]}
    if config.contract.attention_input:
        inputs["attention_output"] = random_input(config, layers, seed=5)[:, :tokens]
    return Problem(config, load_checkpoint(path / "c").weights, inputs)


def check_form(path, name, size, dtype="float32", *, layers=1, tokens=None, **options):
    """Run a form on `size` ranks and compare with the formulas, which know of no ranks.

    The tolerance is that of one rank: partial sums are float32 in each type, and rounded where one rank's are.
    """
    problem = problem_of(path, name, dtype, layers, tokens)
    results = run_model_on_ranks(
        problem.config, problem.weights, problem.inputs, size, max_num_tokens=32, **options
    )
    got = same_on_every_rank([each["hidden_states_out"] for each in results])
    assert got.dtype == DTYPES[problem.config.stream_dtype]
    assert_close(got, problem.reference(), dtype, factor=layers)

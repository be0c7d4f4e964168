"""A SublayerStack in float64 numpy, from its contract: the formulas of the parts, put together."""

from trtllm_ext.verify.formulas import evaluate, points_of


def stack(config, weights, x, attention_output=None):
    """hidden_states_out. weights: float64, under the checkpoint's names; attention_output: (layers, tokens, hidden)."""
    inputs = {"hidden_states": x}
    if attention_output is not None:
        inputs["attention_output"] = attention_output
    return evaluate(points_of(config, weights), inputs).values["hidden_states_out"]

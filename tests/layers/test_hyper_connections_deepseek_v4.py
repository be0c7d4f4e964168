"""The manifold-constrained form against transformers' own module of the model that ships with it, DeepSeek-V4."""

from types import SimpleNamespace

import numpy as np
import pytest
from sublayer_formulas import run_module, set_random

from trtllm_ext.graph import Module, functional
from trtllm_ext.layers import HyperConnections

BUDGET_S = 12  # nearly all of it the import

HIDDEN, STREAMS, TOKENS, EPS, ITERATIONS = 24, 4, 5, 1e-5, 20


class _Parts(Module):
    def __init__(self, connections):
        super().__init__()
        self.connections = connections

    def forward(self, streams):
        x, mixed, beta = self.connections(streams)
        return functional.concat([functional.unsqueeze(x, -2), mixed, mixed * 0.0 + beta], -2)


def their_parameters(weights):
    """Their mixing matrix is the transpose of ours."""
    in_columns = np.arange(STREAMS**2).reshape(STREAMS, STREAMS).T.reshape(-1)
    fn = [weights["pre_weight"], weights["post_weight"], weights["mixing_weight"][in_columns]]
    base = [weights["pre_bias"], weights["post_bias"], weights["mixing_bias"].T.reshape(-1)]
    scale = [weights[f"{name}_scale"] for name in ("pre", "post", "mixing")]
    return {name: np.concatenate(parts) for name, parts in (("fn", fn), ("base", base), ("scale", scale))}


def test_the_manifold_form():
    torch = pytest.importorskip("torch")
    v4 = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")
    # hc_eps: they add 1e-6 to the reading coefficients and inside the normalisation; the paper does not.
    config = SimpleNamespace(
        hc_mult=STREAMS, hc_sinkhorn_iters=ITERATIONS, hc_eps=0.0, rms_norm_eps=EPS, hidden_size=HIDDEN
    )
    theirs = v4.DeepseekV4HyperConnection(config)
    ours = HyperConnections(HIDDEN, STREAMS, "manifold", EPS, ITERATIONS)
    weights = {name: value.astype(np.float32) for name, value in set_random(ours, "float32").items()}
    streams = np.random.default_rng(3).normal(size=(1, TOKENS, STREAMS, HIDDEN)).astype(np.float32)
    with torch.no_grad():
        for name, value in their_parameters(weights).items():
            getattr(theirs, name).copy_(torch.from_numpy(value))
        post, comb, x = theirs(torch.from_numpy(streams))
        mixed = comb.transpose(-1, -2) @ torch.from_numpy(streams)
    got = run_module(_Parts(ours), {"streams": streams})
    parts = np.split(got, [1, STREAMS + 1], axis=-2)
    for part, reference in zip(parts, (x.unsqueeze(-2), mixed, post.unsqueeze(-1)), strict=True):
        expected = np.broadcast_to(reference.numpy(), part.shape)
        np.testing.assert_allclose(part, expected, rtol=1e-5, atol=2e-6)

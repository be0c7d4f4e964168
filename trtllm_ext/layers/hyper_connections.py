"""Several residual streams in place of one: what a sublayer reads of them, and how they go on."""

from __future__ import annotations

import numpy as np

from trtllm_ext.checkpoint.contract import HyperConnectionContract
from trtllm_ext.checkpoint.hyper_connections import weight_shapes
from trtllm_ext.graph import Module, Parameter, Tensor, functional
from trtllm_ext.layers.tensor_parallel import shard_size


class HyperConnections(Module):
    """The coefficients of one residual block, F being its sublayer with its norms, H the n streams (n, d).

    H' = A_r^T H + B^T F(A_m^T H). A_m (n, 1) says what F reads, A_r (n, n) mixes the streams, B (1, n) says how much
    of what F gives is added to each.

    static: they are weights. dynamic: each has a part computed from H added to it,
        B + s_beta tanh(norm(H) W_beta)^T, A_m + s_alpha tanh(norm(H) W_m), A_r + s_alpha tanh(norm(H) W_r).
        Zhu et al. 2024, "Hyper-connections", arXiv 2409.19606, with norm as its appendix J has it: a LayerNorm
        with weight and bias over each stream's d channels.
    manifold: x = RMSNorm(vec(H)) over all n d numbers, and each of c = pre, post, res is s_c (x phi_c) + b_c:
        A_m^T = sigmoid(pre), B = 2 sigmoid(post), A_r^T = sinkhorn(res), which makes all rows and columns sum to 1.
        Xie et al. 2025, "mHC: manifold-constrained hyper-connections", arXiv 2512.24880, equations 7 to 9.

    Weights: see `checkpoint.hyper_connections`. norm: of the dynamic form, 'layer_norm' or 'rms_norm'. eps: of the
    dynamic and the manifold form's norm; the static form has none and does not look at it.
    Raises ConfigError for an unknown kind or norm, a size below 1, an eps that is not above 0, and sinkhorn_iterations
    with any kind but manifold, which needs them.
    """

    def __init__(
        self,
        hidden_size: int,
        num_streams: int,
        kind: str = "static",
        eps: float | None = 1e-05,
        sinkhorn_iterations: int = 0,
        dtype: str | None = None,
        *,
        norm: str = "layer_norm",
    ) -> None:
        super().__init__()
        shard_size(hidden_size, 1, "hidden_size")
        shapes = weight_shapes(kind, num_streams, hidden_size, norm=norm)
        HyperConnectionContract(
            kind=kind,  # type: ignore[arg-type]  # weight_shapes has checked it
            num_streams=num_streams,
            eps=None if kind == "static" else eps,
            sinkhorn_iterations=sinkhorn_iterations,
        )
        self.hidden_size = hidden_size
        self.num_streams = num_streams
        self.kind = kind
        self.eps = eps or 0.0  # None for the static form, which has none
        self.sinkhorn_iterations = sinkhorn_iterations
        self.dtype = dtype or "float32"
        self.norm = norm
        for name, shape in shapes.items():
            self.register_parameter(name, Parameter(shape=shape, dtype=self.dtype))

    def forward(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """streams: (..., num_streams, hidden_size), of any float type. All results have that type.

        Returns what the sublayer reads, (..., hidden_size), the streams mixed, of their own shape, and the factors of
        what the sublayer gives, (..., num_streams, 1) or 1s in front where they are the same for all tokens: the
        streams go on as mixed + factors * given. Coefficients and sums are float32, rounded once.
        """
        wide = functional.cast(streams, "float32")
        forms = {"static": self._static, "dynamic": self._dynamic, "manifold": self._manifold}
        alpha, beta = forms[self.kind](wide)
        # One product for both: its first row is what the sublayer reads.
        product = functional.matmul(alpha, wide)
        x, mixed = functional.split(product, [1, self.num_streams], -2)
        x = functional.squeeze(x, -2)
        x, mixed, beta = (functional.cast(each, streams.dtype) for each in (x, mixed, beta))
        return x, mixed, beta

    def _static(self, streams: Tensor) -> tuple[Tensor, Tensor]:
        front = [1] * (streams.rank() - 2)
        n = self.num_streams
        alpha = functional.view(self._weight("static_alpha"), [*front, n, n + 1])
        return _transposed(alpha), functional.view(self._weight("static_beta"), [*front, n, 1])

    def _dynamic(self, streams: Tensor) -> tuple[Tensor, Tensor]:
        n = self.num_streams
        weight = self._weight("norm_weight")
        if self.norm == "layer_norm":
            bias = self._weight("norm_bias")
            normed = functional.layer_norm(streams, self.hidden_size, weight, bias, self.eps)
        else:
            normed = functional.rms_norm(streams, self.hidden_size, 1, weight, self.eps)
        # One product for all: column 0 is beta's.
        product = functional.matmul(normed, self._weight("dynamic_beta", "dynamic_alpha"), transb=True)
        scales = functional.concat([self._weight("beta_scale"), self._repeated("alpha_scale", n + 1)])
        static = [functional.view(self._weight("static_beta"), [n, 1]), self._weight("static_alpha")]
        coefficients = functional.tanh(product) * scales + functional.concat(static, 1)
        beta, alpha = functional.split(coefficients, [1, n + 1], -1)
        return _transposed(alpha), beta

    def _manifold(self, streams: Tensor) -> tuple[Tensor, Tensor]:
        n, keep = self.num_streams, [0] * (streams.rank() - 2)
        flat = functional.view(streams, [*keep, n * self.hidden_size])
        mean = functional.mean(flat * flat, -1, keepdim=True)
        # Divided after the product: the same number, of far fewer elements.
        phi = self._weight("pre_weight", "post_weight", "mixing_weight")
        normed = functional.matmul(flat, phi, transb=True) / functional.sqrt(mean + self.eps)
        sizes = {"pre": n, "post": n, "mixing": n * n}
        scales = functional.concat([self._repeated(f"{name}_scale", size) for name, size in sizes.items()])
        flat_bias = functional.view(self._weight("mixing_bias"), [n * n])
        biases = functional.concat([self._weight("pre_bias", "post_bias"), flat_bias])
        pre, post, mixing = functional.split(normed * scales + biases, list(sizes.values()), -1)
        read = functional.view(functional.sigmoid(pre), [*keep, 1, n])
        beta = functional.view(functional.sigmoid(post) * 2.0, [*keep, n, 1])
        mixing = sinkhorn(functional.view(mixing, [*keep, n, n]), self.sinkhorn_iterations)
        return functional.concat([read, mixing], -2), beta

    def _weight(self, *names: str) -> Tensor:
        """Weights one after the other along their first axis, in float32."""
        parts = [self._parameters[name].value for name in names]
        return functional.cast(parts[0] if len(parts) == 1 else functional.concat(parts), "float32")

    def _repeated(self, name: str, count: int) -> Tensor:
        """A weight of one number, as (count)."""
        return functional.expand(self._weight(name), [count])


def _transposed(alpha: Tensor) -> Tensor:
    """(A_m A_r), (..., n, n + 1), as the matrix that stands on the streams' left, (..., n + 1, n)."""
    order = [*range(alpha.rank() - 2), alpha.rank() - 1, alpha.rank() - 2]
    return functional.permute(alpha, order)


def sinkhorn(logits: Tensor, iterations: int) -> Tensor:
    """exp(logits) with its columns, then its rows divided by their sums, `iterations` times.

    logits: (..., n, n), float32. Rows sum to 1 up to rounding, columns as near as the iterations brought them.
    """
    n, front = logits.shape[-1], [0] * (logits.rank() - 2)
    one, identity = np.ones((n, n), np.float32), np.identity(n, np.float32)
    # The sum of its column, or row, in each place. As products with whole rows these take ONNX Runtime a sixth of
    # the time of sums over axes of n elements.
    column_sums, row_sums = (
        functional.constant(each) for each in (np.kron(one, identity), np.kron(identity, one))
    )
    # Dividing exp by its columns' sums is a softmax, which does not overflow.
    flat = functional.view(functional.softmax(logits, -2), [*front, n * n])
    for _ in range(iterations - 1):
        flat = flat / functional.matmul(flat, row_sums)
        flat = flat / functional.matmul(flat, column_sums)
    matrix = functional.view(flat, [*front, n, n])
    return matrix / functional.sum(matrix, -1, keepdim=True)


def expand_streams(x: Tensor, num_streams: int) -> Tensor:
    """(..., d) as num_streams equal streams, (..., num_streams, d): how hyper-connections begin."""
    shard_size(num_streams, 1, "num_streams")
    return functional.concat([functional.unsqueeze(x, -2)] * num_streams, -2)


def sum_streams(streams: Tensor) -> Tensor:
    """The sum of all streams, (..., n, d) to (..., d), rounded once: how hyper-connections end."""
    total = functional.sum(functional.cast(streams, "float32"), -2)
    return functional.cast(total, streams.dtype)

"""Learned factors of what a sublayer adds to the residual stream."""

from __future__ import annotations

from trtllm_ext.graph import Module, Parameter, Tensor, functional


class LayerScale(Module):
    """weight * x, one number a channel (Touvron et al. 2021, "Going deeper with image transformers").

    weight: (hidden_size).
    """

    def __init__(self, hidden_size: int, dtype: str | None = None) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight = Parameter(shape=(hidden_size,), dtype=dtype or "float32")

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., hidden_size); the result has its shape and type."""
        return x * _along_last_axis(self.weight, x)


class ScalarGate(Module):
    """weight * x, or tanh(weight) * x, one number for all (ReZero: Bachlechner et al. 2020).

    weight: (1). tanh: the gate passes tanh first, as Flamingo's does (Alayrac et al. 2022).
    """

    def __init__(self, tanh: bool = False, dtype: str | None = None) -> None:
        super().__init__()
        self.tanh = tanh
        self.weight = Parameter(shape=(1,), dtype=dtype or "float32")

    def forward(self, x: Tensor) -> Tensor:
        """x: of any shape; the result has its shape and type."""
        gate = _along_last_axis(self.weight, x)
        return x * (functional.tanh(gate) if self.tanh else gate)


def _along_last_axis(weight: Parameter, x: Tensor) -> Tensor:
    """The weight in x's type and number of axes; x may be wider, on a float32 stream."""
    value = functional.cast(weight.value, x.dtype)
    return functional.view(value, [1] * (x.rank() - 1) + [weight.shape[0]])

"""Normalisations over trailing axes."""

from __future__ import annotations

from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Parameter, Tensor, functional


def _shape(normalized_shape: int | tuple[int, ...] | list[int]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)


class LayerNorm(Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the trailing axes (Ba, Kiros, Hinton 2016).

    normalized_shape: the sizes of those axes. weight, bias: of that shape.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-05,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: str | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = _positive(eps)
        dtype = dtype or "float32"
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        if elementwise_affine:
            self.weight = Parameter(shape=self.normalized_shape, dtype=dtype)
            if bias:
                self.bias = Parameter(shape=self.normalized_shape, dtype=dtype)

    def forward(self, x: Tensor, normalized_shape: int | tuple[int, ...] | None = None) -> Tensor:
        """x: (..., *normalized_shape); the result has its shape and type."""
        weight = 1.0 if self.weight is None else self.weight.value
        bias = 0.0 if self.bias is None else self.bias.value
        shape = self.normalized_shape if normalized_shape is None else _shape(normalized_shape)
        return functional.layer_norm(x, shape, weight, bias, self.eps)


class RmsNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight over the trailing axes (Zhang, Sennrich 2019).

    normalized_shape: the sizes of those axes. weight: of that shape.
    Computed in float32 and rounded to x's type before the product with weight, as TensorRT-LLM does.
    num_groups: that many equal parts of a single axis are normalised separately.
    Raises ConfigError when num_groups does not divide the axis, or there are several axes to divide.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        num_groups: int = 1,
        eps: float = 1e-06,
        elementwise_affine: bool = True,
        dtype: str | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        if num_groups < 1 or self.normalized_shape[-1] % num_groups:
            raise ConfigError(
                f"num_groups={num_groups} does not divide the axis of {self.normalized_shape[-1]}."
            )
        if num_groups > 1 and len(self.normalized_shape) > 1:
            raise ConfigError(
                f"num_groups={num_groups} splits one axis; normalized_shape={self.normalized_shape} has "
                f"{len(self.normalized_shape)}."
            )
        self.num_groups = num_groups
        self.eps = _positive(eps)
        self.register_parameter("weight", None)
        if elementwise_affine:
            self.weight = Parameter(shape=self.normalized_shape, dtype=dtype or "float32")

    def forward(self, x: Tensor, normalized_shape: int | tuple[int, ...] | None = None) -> Tensor:
        """x: (..., *normalized_shape); the result has its shape and type."""
        weight = None if self.weight is None else self.weight.value
        shape = self.normalized_shape if normalized_shape is None else _shape(normalized_shape)
        return functional.rms_norm(x, shape, self.num_groups, weight, self.eps)


def _positive(eps: float) -> float:
    if not eps > 0:
        raise ConfigError(f"eps={eps} must be above 0.")
    return eps

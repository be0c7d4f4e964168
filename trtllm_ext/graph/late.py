"""Tensors that are written down when somebody first reads them."""

from collections.abc import Callable
from typing import Any

from trtllm_ext.graph.network import net_guard
from trtllm_ext.graph.tensor import Tensor


class LateTensor(Tensor):
    """A tensor whose layer is added when it is first needed, named after the place where the tensor was made.

    like: a Tensor of its type and shape, which so are known without a layer. make: gives the Tensor that it stands for.
    terms: what it is the sum of, for whoever can compute that sum together with what reads it, and then says so with
        `give`. is_read_again: whether anybody but the first reader wants the sum.
    """

    def __init__(
        self,
        like: Tensor,
        make: Callable[[], Tensor],
        *,
        terms: tuple[Tensor, Tensor] | None = None,
        is_read_again: bool = True,
    ) -> None:
        self._given: Tensor | None = None
        self._like, self._make = like, make
        super().__init__(is_network_input=False, network=like.network)
        self._place = self.network.modules.current
        self._terms = terms
        self.is_read_again = is_read_again

    @property
    def terms(self) -> tuple[Tensor, Tensor] | None:
        """What it is the sum of, as long as that has not been written down."""
        return self._terms if self._given is None else None

    def give(self, tensor: Tensor) -> None:
        """Let `tensor` be what this one stands for."""
        self._given = tensor

    def _made(self) -> Tensor:
        if self._given is None:
            with net_guard(self.network), self.network.modules.at(self._place):
                self._given = self._make()
        return self._given

    @property
    def trt_tensor(self) -> Any:
        """The `ITensor`; the layer is added now if it is not there."""
        return self._made().trt_tensor

    @trt_tensor.setter
    def trt_tensor(self, value: Any) -> None:
        """Nothing is there yet when the base class sets it."""

    @property
    def producer(self) -> Any:
        """The layer, which is added now if it is not there."""
        return self._made().producer

    @producer.setter
    def producer(self, value: Any) -> None:
        """As for `trt_tensor`."""

    @property
    def dtype(self) -> Any:
        """The element type, a `trt.DataType`."""
        return (self._like if self._given is None else self._given).dtype

    @dtype.setter
    def dtype(self, dtype: Any) -> None:
        self._made().dtype = dtype

    def trt_shape(self) -> tuple[int, ...]:
        """The shape that TensorRT infers."""
        return (self._like if self._given is None else self._given).trt_shape()

"""Budgets for weights in device memory, kept for code that sets them: all memory of this engine is host memory."""

from trtllm_ext.embedded.surface.recorded import Recorded


class WeightStreaming(Recorded):
    """The part of ICudaEngine that is about weight streaming.

    An engine built with BuilderFlag.WEIGHT_STREAMING counts all its weights as streamable and keeps any budget that
    TensorRT would; one built without has nothing to stream. No budget changes how the engine runs.
    """

    __slots__ = ("_budget", "_budget_v1", "_streamable")
    _streamable: int
    _budget: int
    _budget_v1: int

    def _stream(self, streamable: int) -> None:
        """Begin with `streamable` bytes of weights, all at hand."""
        self._streamable = streamable
        self._budget = streamable
        self._budget_v1 = 0

    @property
    def streamable_weights_size(self) -> int:
        """Bytes of weights that may be streamed; 0 unless built with BuilderFlag.WEIGHT_STREAMING."""
        return self._streamable

    @property
    def weight_streaming_budget_v2(self) -> int:
        """Bytes of weights to keep at hand, at first all of them. A negative one logs an error and changes nothing."""
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget: int) -> None:
        if self._may_set("weight_streaming_budget_v2", budget, 0):
            self._budget = min(int(budget), self._streamable)

    @property
    def weight_streaming_budget(self) -> int:
        """As `weight_streaming_budget_v2`, in the older counting: 0 streams nothing, -1 leaves the choice."""
        return self._budget_v1

    @weight_streaming_budget.setter
    def weight_streaming_budget(self, budget: int) -> None:
        if self._may_set("weight_streaming_budget", budget, -1):
            self._budget_v1 = int(budget)

    @property
    def minimum_weight_streaming_budget(self) -> int:
        """Always 0."""
        return 0

    @property
    def weight_streaming_scratch_memory_size(self) -> int:
        """Always 0."""
        return 0

    def get_weight_streaming_automatic_budget(self) -> int:
        """The budget to choose: all weights."""
        return self._streamable

    def _may_set(self, what: str, budget: int, least: int) -> bool:
        if not self._streamable:
            reason = (
                "the engine has no weights to stream: it was built without BuilderFlag.WEIGHT_STREAMING, or its "
                "weights are too small"
            )
        elif budget < least:
            reason = f"{budget} is below {least}"
        else:
            return True
        self._report(f"{what}: {reason}; it stays as it is.")
        return False

"""Small objects that carry settings: of a serialization, and of the contexts of an engine."""

from trtllm_ext.embedded.enums import ExecutionContextAllocationStrategy, SerializationFlag


class ISerializationConfig:
    """What `ICudaEngine.serialize_with_config()` writes. Made by `ICudaEngine.create_serialization_config()`."""

    __slots__ = ("flags",)

    def __init__(self) -> None:
        self.flags = 0

    def set_flag(self, flag: SerializationFlag) -> bool:
        """Set a flag. Always possible."""
        self.flags |= 1 << int(flag)
        return True

    def clear_flag(self, flag: SerializationFlag) -> bool:
        """Clear a flag. Always possible."""
        self.flags &= ~(1 << int(flag))
        return True

    def get_flag(self, flag: SerializationFlag) -> bool:
        """Whether a flag is set."""
        return bool(self.flags >> int(flag) & 1)


class IRuntimeConfig:
    """How a context is made. Made by `ICudaEngine.create_runtime_config()`."""

    __slots__ = ("_strategy",)

    def __init__(self) -> None:
        self._strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> None:
        """Keep a strategy; it changes nothing, since contexts have no device memory of their own."""
        self._strategy = ExecutionContextAllocationStrategy(strategy)

    def get_execution_context_allocation_strategy(self) -> ExecutionContextAllocationStrategy:
        """The strategy kept."""
        return self._strategy

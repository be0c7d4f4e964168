"""Attributes that TensorRT's classes have and the embedded engine has no use for."""

from typing import Any


class Unsupported:
    """An attribute that reads as None, TensorRT's default, and that refuses everything else."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> None:
        return None

    def __set__(self, instance: Any, value: Any) -> None:
        if value is not None:
            raise AttributeError(
                f"{type(instance).__name__}.{self._name} is not supported by the embedded engine; leave it at None."
            )

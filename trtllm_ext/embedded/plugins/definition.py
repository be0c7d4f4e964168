"""Asking a plugin about its outputs while a network is written down."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

from trtllm_ext.embedded.enums import DataType, PluginCapabilityType
from trtllm_ext.embedded.plugins.asking import PluginError, PluginHandle, guarded
from trtllm_ext.embedded.plugins.expressions import DimsExprs, IDimensionExpr, IExprBuilder
from trtllm_ext.embedded.rules.known import Known, RuleError
from trtllm_ext.embedded.rules.plugin import Elements, Signature, split_operands
from trtllm_ext.embedded.types import Dims

_MAX_OUTPUTS = 1024
# TensorRT's plugins make none of these.
_NO_OUTPUTS = frozenset({DataType.BOOL, DataType.UINT8, DataType.INT4, DataType.FP4, DataType.E8M0})


class AskedOutputs:
    """What a plugin answers about its outputs, asked again only when its inputs have become others.

    `attributes` are those of the layer: the answer to the inputs as they are now is kept there as `signature`.
    """

    def __init__(self, handle: PluginHandle, attributes: dict[str, Any]) -> None:
        """Raises PluginError if the plugin has no build part, or a number of outputs that is none."""
        self._handle = handle
        self._attributes = attributes
        self._answers: dict[Any, Signature] = {}
        self._build = handle.part(PluginCapabilityType.BUILD)
        handle.part(PluginCapabilityType.RUNTIME)
        count = guarded(lambda: self._build.num_outputs, f"{handle.label}: num_outputs")
        if not hasattr(count, "__index__") or not 1 <= index(count) <= _MAX_OUTPUTS:
            raise PluginError(
                f"{handle.label}: num_outputs is {count!r:.80}, where a number of 1 or more belongs"
            )
        self.num_outputs = index(count)

    def __call__(self, inputs: Sequence[Known | None]) -> Signature:
        """Types and shapes of the outputs for these inputs. Raises RuleError with what the plugin did wrong."""
        shapes, elements = split_operands(inputs, self._attributes["signature"].num_shape_inputs)
        dtypes = tuple(known.dtype for known in inputs[: len(shapes)] if known is not None)
        key = (dtypes, tuple(shapes), tuple(elements))
        if key not in self._answers:
            try:
                self._answers[key] = self._ask(dtypes, shapes, elements)
            except PluginError as error:
                raise RuleError(str(error)) from error
        self._attributes["signature"] = self._answers[key]
        return self._answers[key]

    def _ask(
        self, dtypes: tuple[DataType, ...], shapes: list[tuple[int, ...]], elements: list[Elements]
    ) -> Signature:
        types = self._answer("get_output_data_types", list(dtypes))
        for output, dtype in enumerate(types):
            if not isinstance(dtype, DataType) or dtype in _NO_OUTPUTS:
                raise self._wrong("get_output_data_types", f"{dtype!r:.80} for output {output}")
        builder = IExprBuilder()
        given = [
            DimsExprs(
                [_expression(builder, length, "length", number, axis) for axis, length in enumerate(shape)]
            )
            for number, shape in enumerate(shapes)
        ]
        values = [
            DimsExprs([_expression(builder, value, "element", number, at) for at, value in enumerate(one)])
            for number, one in enumerate(elements)
        ]
        answers = self._answer("get_output_shapes", given, values, builder)
        places = tuple(self._places(output, dims, builder) for output, dims in enumerate(answers))
        signature = Signature(len(shapes), len(elements), tuple(types), tuple(builder._nodes), places)
        try:
            signature.check_sizes()
        except RuleError as error:
            raise PluginError(f"{self._handle.label}: get_output_shapes(): {error}") from None
        return signature

    def _answer(self, method: str, *arguments: Any) -> list[Any]:
        answer = self._handle.ask(self._build, method, *arguments)
        if not isinstance(answer, list | tuple) or len(answer) != self.num_outputs:
            raise self._wrong(
                method, f"{answer!r:.200}, where a list of {self.num_outputs} belongs (num_outputs)"
            )
        return list(answer)

    def _places(self, output: int, dims: Any, builder: IExprBuilder) -> tuple[int, ...]:
        if not isinstance(dims, DimsExprs | list | tuple) or len(dims) > Dims.MAX_DIMS:
            raise self._wrong(
                "get_output_shapes", f"{dims!r:.80} for output {output}, where DimsExprs belong"
            )
        for axis, expression in enumerate(dims):
            if not isinstance(expression, IDimensionExpr) or expression._builder is not builder:
                raise self._wrong(
                    "get_output_shapes",
                    f"{expression!r:.80} for dimension {axis} of output {output}; set each dimension to an expression "
                    "of this call",
                )
        return tuple(expression._index for expression in dims)

    def _wrong(self, method: str, what: str) -> PluginError:
        return PluginError(f"{self._handle.label}: {method}() gave {what}")


def _expression(builder: IExprBuilder, known: int | None, kind: str, number: int, at: int) -> IDimensionExpr:
    if known is None or (known < 0 and kind == "length"):
        return builder._expression((kind, number, at))
    return builder.constant(known)

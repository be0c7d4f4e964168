"""What decides at run time: one of two branches, and conditions that must hold."""

from trtllm_ext.graph.functional.operands import require_bool, require_same_dtype, require_tensor
from trtllm_ext.graph.functional.shaping import view
from trtllm_ext.graph.layer import _create_tensor, add_layer, fail
from trtllm_ext.graph.tensor import Tensor


class Conditional:
    """Two ways to compute a value, of which a condition chooses one at run time.

        conditional = Conditional(condition)
        x = conditional.add_input(x)
        y = conditional.add_output(x * 2.0, x + 1.0)  # where the condition is true, and where it is not

    condition: bool, of one element.
    Raises GraphError for another condition, and for branches of two types.
    """

    def __init__(self, condition: Tensor) -> None:
        if any(size not in (1, -1) for size in require_bool(condition, "condition").shape):
            raise fail(f"Conditional takes a condition of one element, got the shape {condition.shape}")
        self.layer = add_layer("add_if_conditional")
        self.layer.set_condition((view(condition, []) if condition.rank() else condition).trt_tensor)

    def add_input(self, input: Tensor) -> Tensor:
        """`input` as the branches see it."""
        inside = self.layer.add_input(require_tensor(input, "input").trt_tensor)
        if inside is None:
            raise fail(f"the conditional refuses the input {input!r}")
        return _create_tensor(inside.get_output(0), inside)

    def add_output(self, true_value: Tensor, false_value: Tensor) -> Tensor:
        """true_value where the condition is true, else false_value; both of one type and shape."""
        require_same_dtype(
            require_tensor(true_value, "true_value"), require_tensor(false_value, "false_value")
        )
        chosen = self.layer.add_output(true_value.trt_tensor, false_value.trt_tensor)
        if chosen is None:
            raise fail(f"the conditional refuses the outputs {true_value!r} and {false_value!r}")
        return _create_tensor(chosen.get_output(0), chosen)


def assertion(condition: Tensor, message: str = "") -> None:
    """A run fails with `message` unless `condition`, bool and computable from shapes, is true in all elements.

    A condition that is false whatever the inputs are fails the build.
    """
    add_layer("add_assertion", require_bool(condition, "condition"), message)

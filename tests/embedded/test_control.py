"""Loops and conditionals as objects: inferred shapes, what is refused and how it is told, shape programs."""

import numpy as np
import pytest
from defining import add_input, errors_of, new_network, shape_of

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.rules import RuleError
from trtllm_ext.embedded.rules.program import ShapeProgram

BUDGET_S = 4
COUNT, WHILE = trt.TripLimit.COUNT, trt.TripLimit.WHILE
LAST, ALL, BACK = trt.LoopOutput.LAST_VALUE, trt.LoopOutput.CONCATENATE, trt.LoopOutput.REVERSE


class Net:
    """A network with an input x, a loop, and the number 4."""

    def __init__(self, shape=(4, 3), strongly_typed=True):
        self.network = new_network(strongly_typed)
        self.x = add_input(self.network, shape, name="x")
        self.four = self.number(4)
        self.loop = self.network.add_loop()

    def number(self, value, dtype=np.int32):
        return self.network.add_constant((), np.array(value, dtype)).get_output(0)

    def sum(self, a, b):
        return self.network.add_elementwise(a, b, trt.ElementWiseOperation.SUM).get_output(0)

    def counted(self):
        """The loop with a count and a recurrence that grows by x; its value and the next one."""
        self.loop.add_trip_limit(self.four, COUNT)
        self.layer = self.loop.add_recurrence(self.x)
        state = self.layer.get_output(0)
        after = self.sum(state, self.x)
        self.layer.set_input(1, after)
        return state, after

    def mark(self, tensor, kind=LAST):
        layer = self.loop.add_loop_output(tensor, kind)
        self.network.mark_output(layer.get_output(0))
        return layer

    def build(self, shapes=None):
        """What a build says against the network."""
        builder = trt.Builder(self.network._graph.logger)
        config = builder.create_builder_config()
        if shapes:
            profile = builder.create_optimization_profile()
            profile.set_shape("x", *shapes)
            config.add_optimization_profile(profile)
        before = len(errors_of(self.network))
        plan = builder.build_serialized_network(self.network, config)
        errors = errors_of(self.network)[before:]
        assert (plan is None) == bool(errors)
        return "\n".join(errors)


def test_shapes_follow_from_what_comes_from_outside():
    net = Net((-1, 3, 5))
    x, loop = net.x, net.loop
    iterator = loop.add_iterator(x, 1)
    assert shape_of(iterator.get_output(0)) == (-1, 5)
    iterator.axis = 0
    assert shape_of(iterator.get_output(0)) == (3, 5) and (iterator.axis, iterator.reverse) == (0, False)
    recurrence = loop.add_recurrence(x)
    assert recurrence.num_inputs == 1 and shape_of(recurrence.get_output(0)) == (-1, 3, 5)
    recurrence.set_input(1, net.sum(recurrence.get_output(0), x))
    assert recurrence.num_inputs == 2 and shape_of(recurrence.get_output(0)) == (-1, 3, 5)
    collected = loop.add_loop_output(recurrence.get_output(0), BACK, 3)
    assert shape_of(collected.get_output(0)) == (-1, 3, 5, -1)
    collected.set_input(1, net.four)
    assert shape_of(collected.get_output(0)) == (-1, 3, 5, 4)
    collected.axis = 1
    assert shape_of(collected.get_output(0)) == (-1, 4, 3, 5)
    assert shape_of(loop.add_loop_output(recurrence.get_output(0), LAST).get_output(0)) == (-1, 3, 5)


def test_values_are_not_followed_through_iterations():
    """A recurrence that starts at 2 is not known to be 2."""
    net = Net()
    net.loop.add_trip_limit(net.four, COUNT)
    recurrence = net.loop.add_recurrence(net.network.add_constant((2,), np.array([2, 6])).get_output(0))
    recurrence.set_input(1, net.sum(recurrence.get_output(0), recurrence.get_output(0)))
    last = net.loop.add_loop_output(recurrence.get_output(0), LAST).get_output(0)
    shuffle = net.network.add_shuffle(net.x)
    shuffle.set_input(1, last)
    assert shape_of(shuffle.get_output(0)) == (-1, -1)


def test_properties_and_classes():
    net = Net()
    net.counted()
    network, loop = net.network, net.loop
    layer = network.get_layer(network.num_layers - 2)
    layer.__class__ = trt.IRecurrenceLayer
    assert layer.loop is loop and layer.type == trt.LayerType.RECURRENCE
    assert isinstance(layer, trt.ILoopBoundaryLayer)
    loop.name = "steps"
    assert loop.name == layer.loop.name == "steps"
    limit = network.get_layer(1)
    assert (limit.kind, limit.num_outputs, limit.type) == (COUNT, 0, trt.LayerType.TRIP_LIMIT)
    for unset in ("kind", "loop"):
        with pytest.raises(AttributeError):
            setattr(limit, unset, WHILE)
    choice = network.add_if_conditional()
    condition = choice.set_condition(network.add_input("b", trt.bool, ()))
    taken = choice.add_input(input=net.x)
    output = choice.add_output(true_subgraph_output=taken.get_output(0), false_subgraph_output=net.x)
    assert condition.conditional is taken.conditional is output.conditional is choice
    kinds = [one.type.name for one in (condition, taken, output)]
    assert kinds == ["CONDITION", "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT"]
    assert condition.num_outputs == 0 and shape_of(output.get_output(0)) == (4, 3)
    with pytest.raises(TypeError, match="add_loop"):
        trt.ILoop()
    with pytest.raises(TypeError, match="add_if_conditional"):
        trt.IIfConditional()
    with pytest.raises(TypeError):
        loop.add_trip_limit(net.four, LAST)


def test_order_of_creation_says_nothing():
    """The body and the output are made before the limit and the recurrence's second input."""
    net = Net()
    recurrence = net.loop.add_recurrence(net.x)
    later = net.network.add_elementwise(net.x, net.x, trt.ElementWiseOperation.SUM)
    net.mark(recurrence.get_output(0))
    net.loop.add_trip_limit(net.four, COUNT)
    recurrence.set_input(1, later.get_output(0))
    later.set_input(0, recurrence.get_output(0))
    assert net.build() == ""
    names = [layer.name for layer in net.network._ordered_layers()]
    assert names.index(recurrence.name) < names.index(later.name)


def refused_at_once(net):
    x, loop, four = net.x, net.loop, net.four
    choice = net.network.add_if_conditional()
    half = net.network.add_cast(x, trt.float16).get_output(0)
    other = add_input(net.network, (4, 2))
    yield lambda: loop.add_trip_limit(x, COUNT), "COUNT does not take FLOAT; it takes INT32, INT64"
    yield lambda: loop.add_trip_limit(four, WHILE), "WHILE does not take INT32; it takes BOOL"
    ones = net.network.add_constant((1,), np.ones(1, np.int32)).get_output(0)
    yield lambda: loop.add_trip_limit(ones, COUNT), r"0-D tensor, but it has shape \(1,\)"
    yield lambda: (loop.add_trip_limit(four, COUNT), loop.add_trip_limit(four, COUNT))[1], "COUNT already"
    yield lambda: loop.add_recurrence(None), "input 0 is None"
    yield lambda: loop.add_recurrence(new_network().add_input("x", trt.float32, ())), "another network"
    yield lambda: choice.add_output(x, half), "give FLOAT and HALF"
    yield lambda: choice.add_output(x, other), r"shapes \(4, 3\) and \(4, 2\)"
    yield lambda: choice.set_condition(four), "does not take INT32; it takes BOOL"


def test_refused_when_it_is_added():
    net = Net()
    for add, reason in refused_at_once(net):
        before = net.network.num_layers
        assert add() is None, reason
        assert net.network.num_layers - before <= 1
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(errors_of(net.network)[-1])


def unlimited(net):
    recurrence = net.loop.add_recurrence(net.x)
    recurrence.set_input(1, net.sum(recurrence.get_output(0), net.x))
    net.mark(recurrence.get_output(0))


def without_next(net):
    net.loop.add_trip_limit(net.four, COUNT)
    net.mark(net.loop.add_recurrence(net.x).get_output(0))


def growing(net):
    state, _ = net.counted()
    joined = net.network.add_concatenation([state, net.x])
    joined.axis = 0
    net.layer.set_input(1, joined.get_output(0))
    net.mark(state)


def of_another_type(net):
    state, _ = net.counted()
    net.layer.set_input(1, net.network.add_cast(state, trt.float16).get_output(0))
    net.mark(state)


def leaking(net):
    state, after = net.counted()
    net.mark(state)
    net.network.mark_output(net.sum(after, net.x))


def without_output(net):
    state, _ = net.counted()
    net.network.mark_output(state)


def initial_from_inside(net):
    _, after = net.counted()
    second = net.loop.add_recurrence(after)
    second.set_input(1, after)
    net.mark(second.get_output(0))


def last_of_a_sum(net):
    net.mark(net.counted()[1])


def without_length(net):
    net.mark(net.counted()[1], ALL)


def length_of_last(net):
    net.mark(net.counted()[0]).set_input(1, net.four)


def negative_length(net):
    net.mark(net.counted()[0], ALL).set_input(1, net.number(-1))


def own_output_inside(net):
    state, after = net.counted()
    net.layer.set_input(1, net.sum(after, net.mark(state).get_output(0)))


def overlapping(net):
    state, after = net.counted()
    other = net.network.add_loop()
    other.add_trip_limit(net.four, COUNT)
    second = other.add_recurrence(net.x)
    both = net.sum(after, second.get_output(0))
    net.layer.set_input(1, both)
    second.set_input(1, both)
    net.mark(state)
    net.network.mark_output(other.add_loop_output(second.get_output(0), LAST).get_output(0))


def a_cycle(net):
    first = net.network.add_elementwise(net.x, net.x, trt.ElementWiseOperation.SUM)
    second = net.sum(first.get_output(0), net.x)
    first.set_input(1, second)
    net.network.mark_output(second)


def while_by_an_iterator(net):
    flags = net.network.add_input("flags", trt.bool, (4,))
    net.loop.add_trip_limit(net.loop.add_iterator(flags).get_output(0), WHILE)
    net.mark(net.counted()[0])


def reverse_without_count(net):
    net.loop.add_trip_limit(net.network.add_input("on", trt.bool, ()), WHILE)
    recurrence = net.loop.add_recurrence(net.x)
    recurrence.set_input(1, net.loop.add_iterator(add_input(net.network, (4, 4, 3)), 0, True).get_output(0))
    net.mark(recurrence.get_output(0))


def axis_beyond(net):
    net.counted()
    net.mark(net.loop.add_iterator(net.x, 2).get_output(0), ALL).set_input(1, net.four)


def undecided(net):
    choice = net.network.add_if_conditional()
    net.network.mark_output(choice.add_output(net.x, net.sum(net.x, net.x)).get_output(0))


@pytest.mark.parametrize(
    ("define", "reason"),
    [
        (unlimited, "no trip limit"),
        (without_next, r"set_input\(1, tensor\)"),
        (growing, r"is FLOAT \(8, 3\), but the initial value is FLOAT \(4, 3\)"),
        (of_another_type, r"is HALF \(4, 3\), but the initial value is FLOAT"),
        (leaking, r"is computed inside '\(Unnamed Loop\* 0\)'; it must leave that by add_loop_output"),
        (without_output, "must leave that by add_loop_output"),
        (initial_from_inside, "its initial value, .* is computed inside its loop"),
        (last_of_a_sum, "LAST_VALUE is given of a recurrence"),
        (without_length, "number of values to concatenate is missing"),
        (length_of_last, "LAST_VALUE has no input 1"),
        (negative_length, "length of a loop output is -1"),
        (own_output_inside, "lie on a cycle"),
        (overlapping, "neither of which lies in the other"),
        (a_cycle, "part of a cycle"),
        (while_by_an_iterator, "WHILE limit depends on .*Iterator"),
        (reverse_without_count, "iterates in reverse"),
        (axis_beyond, r"no dimension 2 to iterate over in a tensor of shape \(4, 3\)"),
        (undecided, "no condition"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_refused_by_the_build(define, reason):
    net = Net()
    define(net)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(net.build())


def test_a_shape_that_grows_by_the_run_is_refused_at_the_optimum():
    net = Net((-1, 3))
    growing(net)
    assert "is FLOAT (4, 3), but the initial value is FLOAT (2, 3)" in net.build([(1, 3), (2, 3), (4, 3)])


def test_shape_programs_check_back_edges_also_after_json():
    """The other operand of the sum may be of one row, which broadcasts, or of so many that the state would grow."""
    net = Net((-1, 3))
    other = net.network.add_input("other", trt.float32, (-1, 3))
    state, after = net.counted()
    net.layer.set_input(1, net.sum(after, other))
    length = net.network.add_input("length", trt.int32, ())
    layer = net.mark(state, ALL)
    layer.set_input(1, length)
    program = ShapeProgram.of(net.network, [layer.get_output(0).name])
    for one in (program, ShapeProgram.from_json(program.to_json())):
        assert one.shape_inputs == ("length",)
        values = {"length": np.array(7, np.int32)}
        (shape,) = one.run({"x": (2, 3), "other": (1, 3), "length": ()}, values).values()
        assert shape == (7, 2, 3)
        with pytest.raises(RuleError, match=r"FLOAT \(5, 3\), but the initial value is FLOAT \(1, 3\)"):
            one.run({"x": (1, 3), "other": (5, 3), "length": ()}, values)


def test_branches_of_one_length_at_run_time():
    """Dynamic lengths of the branches must agree before a run."""
    network = new_network()
    a, b = (add_input(network, (-1,), name=name) for name in "ab")
    choice = network.add_if_conditional()
    choice.set_condition(network.add_input("c", trt.bool, ()))
    output = choice.add_output(a, b).get_output(0)
    program = ShapeProgram.of(network, [output.name])
    assert program.run({"a": (3,), "b": (3,)}) == {output.name: (3,)}
    with pytest.raises(RuleError, match="must give the same shape"):
        program.run({"a": (3,), "b": (2,)})

"""Operations of one's own: records that are changed or wrong, and libraries that the embedded engine does not use."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest

import trtllm_ext as tx
from trtllm_ext.errors import BackendError, BuildError, GraphError
from trtllm_ext.graph import functional
from trtllm_ext.plugin.adding import add_operation
from trtllm_ext.plugin.c_interface import Type
from trtllm_ext.plugin.creators import creator_of, load_operation, load_plugins
from trtllm_ext.plugin.feed_forward import FEED_FORWARD
from trtllm_ext.plugin.operation import Operand, Operation, choice, number
from trtllm_ext.runtime import own_plugins

BUDGET_S = 2

SCALED = Operation(
    name="scaled",
    plugin="Scaled",
    namespace="tests.own_operations",
    doc="y = factor * x",
    fields=(choice("type", Type, "type of x and y"), number("factor", "what x is multiplied with", 2.0)),
    inputs=(Operand(name="x", shape=("...", "width"), doc="what is scaled"),),
    outputs=(Operand(name="y", shape=("...", "width"), doc="x, scaled"),),
    types=("float32",),
    expansion=lambda fields, *, x: (x * fields["factor"],),
)
X = np.arange(12, dtype=np.float32).reshape(3, 4)


def network_of(operation, inputs=("x",), **settings):
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        x = tx.Tensor(name="x", dtype="float32", shape=[-1, 4], dim_range=OrderedDict(t=[[1, 3, 8]], w=[4]))
        (y,) = add_operation(operation, settings, dict.fromkeys(inputs, x))
        y.mark_output("y")
    return builder, network


def engine_of(builder, network):
    return builder.build_engine(network, builder.create_builder_config(precision="float32"))


def output_of(engine):
    with tx.Session.from_serialized_engine(engine) as session:
        return session.run({"x": X})["y"]


@pytest.mark.parametrize("loaded", [False, True], ids=["at its use", "by load_operation"])
def test_a_record_that_was_changed_is_taken_anew(loaded):
    load_operation(SCALED)
    first = network_of(SCALED, factor=3.0)
    changed = replace(SCALED, expansion=lambda fields, *, x: (functional.abs(x) + fields["factor"],))
    if loaded:
        load_operation(changed)
    np.testing.assert_array_equal(output_of(engine_of(*network_of(changed, factor=3.0))), X + 3)
    np.testing.assert_array_equal(output_of(engine_of(*first)), X * 3)
    creator = creator_of(changed)
    load_operation(changed)
    assert creator_of(changed) is creator


def test_the_packages_namespace_is_its_own():
    for operation in (
        replace(SCALED, namespace="trtllm_ext"),
        replace(FEED_FORWARD, expansion=SCALED.expansion),
    ):
        for take in (load_operation, creator_of):
            with pytest.raises(
                BackendError, match=r"is in namespace 'trtllm_ext', which is for .* namespace of your"
            ):
                take(operation)
    load_operation(FEED_FORWARD)


def test_a_library_is_there_or_refused_and_told_to_be_of_no_use(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(own_plugins, "_asked_for", None)
    with pytest.raises(
        BackendError, match=r"none.so, the library of the plugin 'Scaled', is not there\. Build it"
    ):
        load_operation(SCALED, tmp_path / "none.so")
    with pytest.raises(BackendError, match=r"none.so, the plugin library that was asked for, is not there"):
        load_plugins(tmp_path / "none.so")
    file = tmp_path / "some.so"
    file.write_text(
        'TRTLLM_EXT_PLUGINS_INFO_BEGIN{"tensorrt": "8.6.1", "tensorrt_major": 8, "kernels_abi": 1, "cuda": "13.0", '
        '"architectures": "90a", "plugins": []}TRTLLM_EXT_PLUGINS_INFO_END'
    )
    load_operation(SCALED, file)
    load_plugins(file)
    load_plugins(file)  # told once
    assert caplog.messages == [f"{file} is not used: {own_plugins.NOT_USED}"] * 2


@pytest.mark.parametrize(
    ("inputs", "settings", "text"),
    [
        (("xx",), {}, "scaled has no input 'xx'. Did you mean x"),
        ((), {}, "scaled needs its input 'x': what is scaled"),
        (
            ("x",),
            {"factor": "a"},
            "factor='a' is not taken; it is a float32, from 0: what x is multiplied with",
        ),
        (("x",), {"factor": [1, 2]}, r"factor=\[1, 2\] is not taken"),
        (("x",), {"factors": 2}, "Scaled has no field 'factors'. Did you mean factor?"),
    ],
)
def test_what_it_is_not_given_rightly_is_told(inputs, settings, text):
    with pytest.raises(GraphError, match=text):
        network_of(SCALED, inputs, **settings)


@pytest.mark.parametrize(
    ("expansion", "gave"),
    [(lambda fields, *, x: x * 2.0, "Tensor"), (lambda fields, *, x: (x, x), "2 of them")],
)
def test_an_expansion_gives_a_tuple_of_its_outputs(expansion, gave):
    with pytest.raises(
        BuildError, match=rf"expansion of scaled gives {gave}; .* a tuple of 1, .* \(y\): return"
    ):
        engine_of(*network_of(replace(SCALED, expansion=expansion)))


def test_a_default_is_what_its_field_takes():
    with pytest.raises(
        GraphError, match=r"field 'cap': its default -3.0 is not taken; it is a float32, from 0.1"
    ):
        number("cap", "the limit", default=-3.0, least=0.1)

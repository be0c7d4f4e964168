"""Every name, parameter and enumerator that TensorRT's real Python bindings have, beside those of this module.

And beside the committed summary of the bindings, of each release that can be fetched.
"""

import inspect
import json

import pytest
from bindings import NEWER, VERSION, Unavailable, overloads, surface_of_bindings
from summary_of_bindings import RELEASES, TARGET, of_release, summary, text_of

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.surface.absent import ABSENT

BUDGET_S = 10

# Names that the real module has from its own imports and loops.
LEFTOVERS = {"_itemsize", "attr", "common_enter", "common_exit", "ctypes", "os", "sys", "value", "warnings"}
# What is ours alone, and why.
OURS = {
    "IHostMemory": "is a mmap, whose methods it has too",
    "IOutputAllocator.notify_shape": "documented by TensorRT, but only found on subclasses",
    "IOutputAllocator.reallocate_output": "documented by TensorRT, but only found on subclasses",
    "IOutputAllocator.reallocate_output_async": "documented by TensorRT, but only found on subclasses",
    "Weights.packed_bytes": "4-bit weights, which numpy() gives back as Weights in both modules",
    "Runtime.load_mode": "chooses between speed and memory; TensorRT has no such choice",
    "Runtime.thread_pool": "says whose threads an engine runs on",
    "ICudaEngine.collectives": "what the ranks of an engine do together, to be tried before the first run",
    "ICudaEngine.collective_steps": "the same one by one, to be compared with those of the other ranks",
    "IExecutionContext.rank_error": "the failure of the ranks that ended the last run",
}
# Of TensorRT 11, whose bindings they are compared with: collectives, which the release of VERSION lacks.
LATER = {
    "CollectiveOperation",
    "IDistCollectiveLayer",
    "IExecutionContext.set_communicator",
    "ILayer.num_ranks",
    "INetworkDefinition.add_dist_collective",
    "LayerType.DIST_COLLECTIVE",
    "ReduceOperation.NONE",
}
# Declared by the bindings with C++ parameters; what they call on a subclass takes those given here.
CALLED_OTHERWISE = {
    "IStreamWriter.write": ["self", "data"],
    # `in` cannot be the name of a parameter.
    **{
        f"{name}.{method}": ["self", "in_", "out"]
        for name in ("IPluginV3OneBuild", "IPluginV3OneBuildV2")
        for method in ("configure_plugin", "get_workspace_size")
    },
    "IPluginV3OneRuntime.on_shape_change": ["self", "in_", "out"],
    "IPluginV3OneBuildV2.get_aliased_input": ["self", "output_index"],
}
PROTOCOL = {
    "__len__",
    "__getitem__",
    "__setitem__",
    "__enter__",
    "__exit__",
    "__del__",
    "__bool__",
    "__iter__",
}


@pytest.fixture(scope="module")
def bindings_of(pytestconfig, tmp_path_factory):
    """bindings_of(release): what its bindings contain, fetched once; without them the test is skipped."""
    cache = getattr(pytestconfig, "cache", None)
    folder = cache.mkdir("tensorrt_bindings") if cache else tmp_path_factory.mktemp("tensorrt_bindings")
    found = {}

    def look(release):
        if release not in found:
            try:
                found[release] = surface_of_bindings(folder, release)
            except Unavailable as reason:
                found[release] = str(reason)
        if isinstance(found[release], str):
            pytest.skip(found[release])
        return found[release]

    return look


@pytest.fixture(scope="module")
def real(bindings_of):
    return bindings_of(VERSION)


@pytest.fixture(scope="module")
def classes(real):
    """Name, real description and own class of everything that is implemented here."""
    return [
        (name, entry, getattr(trt, name))
        for name, entry in real.items()
        if "bases" in entry and hasattr(trt, name) and name not in ABSENT
    ]


def test_every_name_exists(real):
    missing = set(real) - set(dir(trt)) - LEFTOVERS
    assert not missing, lines(missing)


def test_no_public_name_is_ours_alone(real):
    public = {name for name in (*trt.__all__, *ABSENT) if not name.startswith("_")}
    alone = public - set(real) - LATER
    assert not alone, lines(alone)


def test_values_are_the_same(real):
    for name, entry in real.items():
        if "bases" not in entry and entry["repr"].startswith("<DataType."):
            assert repr(getattr(trt, name)) == entry["repr"]


def test_the_version_is_that_of_the_bindings():
    assert VERSION.startswith(trt.__version__)


def test_enumerators_are_the_same(classes):
    for name, entry, ours in classes:
        if "enumerators" in entry:
            members = {key: int(value) for key, value in ours.__members__.items()}
            alone = {key for key in members if f"{name}.{key}" in LATER}
            assert not alone & set(entry["enumerators"]), name
            assert {key: members[key] for key in members if key not in alone} == entry["enumerators"], name


def test_enumerations_print_and_convert_alike(real):
    assert str(trt.LayerType.ELEMENTWISE) == "LayerType.ELEMENTWISE"
    assert repr(trt.LayerType.ELEMENTWISE) == f"<LayerType.ELEMENTWISE: {int(trt.LayerType.ELEMENTWISE)}>"
    assert trt.LayerType(int(trt.LayerType.TOPK)) is trt.LayerType.TOPK
    assert {trt.float32: 1}[trt.DataType.FLOAT] == 1
    assert trt.DataType.FLOAT != 0


def test_bases_are_the_same(classes):
    missing = [
        f"{name} lacks the base {base}"
        for name, entry, ours in classes
        for base in entry["bases"]
        if base not in {cls.__name__ for cls in ours.__mro__}
    ]
    assert not missing, lines(missing)


def test_absent_names_refuse_to_be_made(real):
    for name, value in ABSENT.items():
        assert name in real
        if hasattr(trt, name) and getattr(trt, name) is value:
            with pytest.raises((NotImplementedError, TypeError), match=r"not supported|No constructor"):
                value()


def test_members_are_the_same(classes):
    differences = []
    for name, entry, ours in classes:
        if "enumerators" in entry:
            continue
        for member, described in entry["members"].items():
            if not member.startswith("_") or member in PROTOCOL:
                differences += compared(name, member, described, ours)
    assert not differences, lines(differences)


def test_constructors_are_the_same(classes):
    differences = []
    for name, entry, ours in classes:
        described = entry["members"].get("__init__")
        if described is not None and described["kind"] == "instancemethod" and "enumerators" not in entry:
            for parameters in overloads("__init__", described["doc"]):
                differences += refusals(f"{name}()", ours.__init__, parameters)
    assert not differences, lines(differences)


def test_no_public_member_is_ours_alone(classes):
    alone = [
        f"{name}.{member}"
        for name, entry, ours in classes
        if "enumerators" not in entry and name not in OURS
        for member in dir(ours)
        if not member.startswith("_")
        and member not in entry["members"]
        and not is_expected(name, member, ours)
    ]
    assert not alone, lines(alone)


def test_names_of_a_later_release_are_as_there(real, bindings_of):
    differences, newer = [], bindings_of(NEWER)
    for where in LATER:
        name, _, member = where.partition(".")
        ours, there = getattr(trt, name), newer[name]
        assert member not in real.get(name, {"members": {where: None}})["members"], (
            f"{where} is there already"
        )
        if "enumerators" in there:
            members = {key: int(value) for key, value in ours.__members__.items()}
            for key in [member] if member else {*members, *there["enumerators"]}:
                assert members[key] == there["enumerators"][key], where
        elif member:
            differences += compared(name, member, there["members"][member], ours)
        else:
            assert there["bases"] == [base.__name__ for base in ours.__mro__[1:-1]]
    assert not differences, lines(differences)


def test_the_summary_is_of_the_bindings(bindings_of):
    found = {release: summary(bindings_of(release)) for release in RELEASES}
    assert TARGET.read_text() == text_of(found)


@pytest.mark.parametrize("release", RELEASES)
def test_the_summary_of_each_release_that_can_be_fetched(bindings_of, release):
    committed = json.loads(TARGET.read_text())
    alone = json.loads(text_of({release: summary(bindings_of(release))}))
    told = {name: of_release(entry, release.split(".")[0]) for name, entry in committed.items()}
    assert {name for name, entry in told.items() if entry is not None} == set(alone)
    for name, entry in alone.items():
        if name != "releases":
            assert told[name] == entry, name


def is_expected(name, member, ours):
    """Whether a member of a class, or of one that it is derived from, is listed as ours alone or of a later release."""
    owners = {name, *(base.__name__ for base in ours.__mro__ if member in vars(base))}
    return f"{name}.{member}" in OURS or any(f"{owner}.{member}" in LATER for owner in owners)


def lines(differences):
    return "\n".join(sorted(differences))


def compared(name, member, described, ours):
    """What is different about one member of a class."""
    where = f"{name}.{member}"
    static = inspect.getattr_static(ours, member, None)
    if static is None:
        return [f"{where} is missing"]
    if described["kind"] == "property":
        is_settable = static.fset is not None if isinstance(static, property) else hasattr(static, "__set__")
        if is_settable != described["settable"]:
            return [f"{where} can {'' if is_settable else 'not '}be set, unlike TensorRT's"]
        return []
    method = getattr(ours, member)
    if where in CALLED_OTHERWISE:
        return (
            []
            if list(inspect.signature(method).parameters) == CALLED_OTHERWISE[where]
            else [f"{where} differs"]
        )
    return [line for one in overloads(member, described["doc"]) for line in refusals(where, method, one)]


def refusals(where, method, parameters):
    """Why a method does not take what an overload of TensorRT's takes: all by name, the required ones, in order."""
    try:
        signature = inspect.signature(method)
    except ValueError:
        return [] if where.startswith("IHostMemory") else [f"{where} has no signature"]
    named = {name: default for name, default in parameters if not name.startswith("arg")}
    required = [name for name, default in parameters if default is None]
    try:
        signature.bind(*required)
        if len(named) == len(parameters):
            signature.bind(**named)
            bound = signature.bind(*required).arguments
            swapped = [name for name in required if name in bound and bound[name] != name]
            if swapped:
                return [f"{where} has another order: {list(signature.parameters)}, not {required}"]
    except TypeError as error:
        return [f"{where}{signature} does not take {[name for name, _ in parameters]}: {error}"]
    return [
        f"{where}: default of {name} is {signature.parameters[name].default!r}, not {default}"
        for name, default in named.items()
        if default is not None
        and name in signature.parameters
        and repr(signature.parameters[name].default) != default
    ]

"""What of a host keeps an engine from running: told by the envelope, before a byte of the engine is read."""

import hashlib
from types import SimpleNamespace

import pytest
from test_engine_dir import make

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.errors import BackendError, EngineError
from trtllm_ext.runtime import plugin_libraries
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.envelope import PluginSummary
from trtllm_ext.runtime.host_check import runs_on_version
from trtllm_ext.runtime.loading import HOST_CODE_VARIABLE, new_runtime

BUDGET_S = 6

BUILT = {"engine_kind": "tensorrt", "engine_version": "10.14.1", "compute_capability": "9.0"}
PLUGIN = PluginSummary(name="Fast", version="1", namespace="mine")


class Registry:
    """TensorRT's registry, of version 10 or of version 8, which has other names for the same."""

    def __init__(self, old=False):
        self.creators, self.brings, self.handle = [], [], 17
        if old:
            self.plugin_creator_list, self.get_plugin_creator = self.creators, self._find
        else:
            self.all_creators, self.get_creator = self.creators, self._find

    def _find(self, name, version, namespace):
        key = (name, version, namespace)
        return next((each for each in self.creators if key == plugin_libraries._key(each)), None)

    def load_library(self, path):
        self.creators += self.brings
        return self.handle


@pytest.fixture(params=["10", "8"])
def registry(request, monkeypatch):
    monkeypatch.setattr(plugin_libraries, "_noted", {})
    return Registry(old=request.param == "8")


def creator(name="Fast", version="1", namespace="mine"):
    return SimpleNamespace(name=name, plugin_version=version, plugin_namespace=namespace)


def host(monkeypatch, version="10.14.1", capability="9.0", registry=None):
    """This process as one with NVIDIA's TensorRT and a device."""
    library = SimpleNamespace(
        __version__=version,
        get_plugin_registry=lambda: registry,
        Runtime=lambda logger: SimpleNamespace(engine_host_code_allowed=False),
    )
    monkeypatch.setattr(backend, "choice", lambda: backend.Choice("tensorrt", "trtllm_ext", ()))
    monkeypatch.setattr(backend, "tensorrt", lambda: library)
    monkeypatch.setattr("trtllm_ext.runtime.host_check.compute_capability", lambda: capability)


def refused(directory):
    """The sentence by which a session is refused, with garbage in place of the engine: nobody reads that."""
    (directory / "rank0.engine").write_bytes(b"garbage")
    with pytest.raises(EngineError) as caught:
        tx.Session.from_engine_dir(directory)
    text = str(caught.value)
    again = (
        f"`trtllm-ext build --from-engine {directory} --checkpoint_dir CHECKPOINT --output_dir {directory}`."
    )
    assert text.endswith(f"or build it again here, as it was: {again}")
    return text


def accepted(directory):
    EngineDir.read(directory).check_host()


def test_another_engine_kind(tmp_path, monkeypatch):
    make(tmp_path, **BUILT)
    monkeypatch.setattr(backend, "choice", lambda: backend.Choice("embedded", "trtllm_ext", ()))
    told = refused(tmp_path)
    assert (
        "was built by the tensorrt engine (10.14.1, for 9.0), but this process uses the embedded engine"
        in told
    )
    assert "TRTLLM_EXT_BACKEND=tensorrt" in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine_version": "10.7.0"}, "was built by TensorRT 10.7.0, but TensorRT 10.14.1 is installed"),
        (
            {"engine_version": "10.15.0", "version_compatible": True},
            "such an engine runs on 10.15.0 and later releases of 10, or of 11. Install one of these",
        ),
        (
            {"engine_version": "11.0.0", "version_compatible": True},
            "such an engine runs on 11.0.0 and later releases of 11. Install one of these",
        ),
        ({"compute_capability": "8.0"}, "was built for compute capability 8.0, but this device has 9.0"),
        (
            {"compute_capability": "8.0", "hardware_compatibility_level": "same_compute_capability"},
            "8.0 and hardware compatibility level same_compute_capability, but this device has 9.0",
        ),
    ],
)
def test_another_library_or_device(tmp_path, monkeypatch, changes, message):
    make(tmp_path, **{**BUILT, **changes})
    host(monkeypatch)
    assert message in refused(tmp_path)


def test_a_device_before_ampere(tmp_path, monkeypatch):
    make(tmp_path, **BUILT, hardware_compatibility_level="ampere_plus")
    host(monkeypatch, capability="7.5")
    assert "of compute capability 8.0 and above (hardware compatibility level ampere_plus)" in refused(
        tmp_path
    )


@pytest.mark.parametrize(
    ("changes", "here"),
    [
        ({}, {}),
        ({"version_compatible": True}, {"version": "10.15.1"}),
        ({"version_compatible": True}, {"version": "11.4.0"}),
        ({"hardware_compatibility_level": "ampere_plus"}, {"capability": "12.0"}),
        ({"hardware_compatibility_level": "same_compute_capability"}, {}),
    ],
)
def test_what_can_run_is_let_through(tmp_path, monkeypatch, changes, here):
    make(tmp_path, **{**BUILT, **changes})
    host(monkeypatch, **here)
    monkeypatch.setenv(HOST_CODE_VARIABLE, "1")
    accepted(tmp_path)


def test_code_for_the_host_needs_trust(tmp_path, monkeypatch):
    make(tmp_path, **BUILT, version_compatible=True)
    host(monkeypatch)
    (tmp_path / "rank0.engine").write_bytes(b"garbage")
    for value in ("", "0"):
        monkeypatch.setenv(HOST_CODE_VARIABLE, value)
        with pytest.raises(
            EngineError, match="TRTLLM_EXT_ALLOW_HOST_CODE=1 if you trust where the file comes"
        ):
            tx.Session.from_engine_dir(tmp_path)
    assert new_runtime(backend.tensorrt(), SimpleNamespace(given=None)).engine_host_code_allowed is False
    monkeypatch.setenv(HOST_CODE_VARIABLE, "1")
    accepted(tmp_path)
    assert new_runtime(backend.tensorrt(), SimpleNamespace(given=None)).engine_host_code_allowed is True


def test_an_engine_without_weights(tmp_path, monkeypatch):
    """It fits the host, where a refit can fill it; a session is told how."""
    make(tmp_path, **BUILT, is_stripped=True)
    host(monkeypatch)
    (tmp_path / "rank0.engine").write_bytes(b"garbage")
    accepted(tmp_path)
    with pytest.raises(EngineError, match="holds no weights: it was built with use_strip_plan"):
        tx.Session.from_engine_dir(tmp_path)


@pytest.mark.parametrize(
    ("built", "version", "runs"),
    [
        ("8.6.0", "8.6.1", True),
        ("8.6.1", "8.6.0", False),
        ("8.5.3", "8.6.1", False),
        ("8.6.1", "9.3.0", True),
        ("8.6.1", "10.0.1", True),
        ("8.6.1", "11.0.0", False),
        ("9.3.0", "10.0.1", True),
        ("10.2.0", "10.14.1.48.post1", True),
        ("10.14.1.48.post1", "10.2.0", False),
        ("10.9.0", "11.0.0", True),
        ("11.0.0", "10.16.1", False),
        ("11.0.0", "11.1.0", True),
    ],
)
def test_the_rule_of_version_compatible_engines(built, version, runs):
    assert runs_on_version(built, version) is runs


def test_a_plugin_that_nobody_registered(tmp_path, monkeypatch, registry):
    make(tmp_path, **BUILT, plugins=(PLUGIN,))
    host(monkeypatch, registry=registry)
    told = refused(tmp_path)
    assert "needs the plugin 'Fast' version '1' in namespace 'mine', which is not registered here" in told
    assert "Register its creator first" in told
    registry.creators += [creator(version="2"), creator(namespace="")]
    refused(tmp_path)
    registry.creators.append(creator())
    accepted(tmp_path)


def of_library(content, library="libfast.so"):
    digest = hashlib.sha256(content).hexdigest()
    return PluginSummary(name="Fast", version="1", namespace="mine", library=library, library_sha256=digest)


def test_a_plugin_of_a_library(tmp_path, monkeypatch, registry):
    """Not loaded, loaded past us, loaded in another form, and loaded as it was."""
    make(tmp_path / "engine", **BUILT, plugins=(of_library(b"code"),))
    host(monkeypatch, registry=registry)
    told = refused(tmp_path / "engine")
    assert "of libfast.so, which is not registered here. Load that library first with" in told
    registry.brings = [creator()]
    registry.load_library("libfast.so")
    assert "the one registered came from no library that is known" in refused(tmp_path / "engine")

    library = tmp_path / "libfast.so"
    library.write_bytes(b"other code")
    plugin_libraries.note_library(library, [creator()])
    told = refused(tmp_path / "engine")
    other = hashlib.sha256(b"other code").hexdigest()[:12]
    assert f"but the one loaded here is of libfast.so (sha256 {other}...)" in told

    library.write_bytes(b"code")
    plugin_libraries.note_library(library, [creator()])
    accepted(tmp_path / "engine")


def test_loading_notes_what_a_library_brought(tmp_path, monkeypatch, registry):
    host(monkeypatch, registry=registry)
    registry.creators.append(creator("Before"))
    registry.brings = [creator(), creator("Slow", "3", "")]
    library = tmp_path / "libfast.so"
    library.write_bytes(b"code")
    assert plugin_libraries.load_plugin_library(library) == 17
    library.write_bytes(b"changed since")
    assert plugin_libraries.summary_of_plugin("Fast", "1", "mine") == of_library(b"code")
    assert plugin_libraries.library_of("Slow", "3").sha256 == of_library(b"code").library_sha256
    before = plugin_libraries.summary_of_plugin("Before", "1", "mine")
    assert before == PluginSummary(name="Before", version="1", namespace="mine")


def test_a_library_that_is_refused(tmp_path, monkeypatch, registry):
    host(monkeypatch, registry=registry)
    with pytest.raises(BackendError, match="cannot be read as a library of plugins"):
        plugin_libraries.load_plugin_library(tmp_path / "none.so")
    (tmp_path / "bad.so").write_bytes(b"")
    registry.handle = None
    with pytest.raises(BackendError, match="TensorRT refused it, as it does when a creator of the same name"):
        plugin_libraries.load_plugin_library(tmp_path / "bad.so")


def test_a_library_that_registers_itself_when_it_is_opened(tmp_path, monkeypatch, registry):
    """As those with REGISTER_TENSORRT_PLUGIN, which TensorRT's loadLibrary does not take."""
    host(monkeypatch, registry=registry)
    registry.handle = None
    library = tmp_path / "own.so"
    library.write_bytes(b"code")

    def opened(path):
        assert path == str(library)
        registry.creators.append(creator())

    with pytest.raises(BackendError, match=r"opened by itself the loader says: .*own\.so"):
        plugin_libraries.load_plugin_library(library)
    monkeypatch.setattr(plugin_libraries.ctypes, "CDLL", lambda path: None)
    with pytest.raises(BackendError, match="opened by itself it registered no creator"):
        plugin_libraries.load_plugin_library(library)
    monkeypatch.setattr(plugin_libraries.ctypes, "CDLL", opened)
    assert plugin_libraries.load_plugin_library(library) is None
    assert plugin_libraries.summary_of_plugin("Fast", "1", "mine") == of_library(b"code", "own.so")


def test_the_embedded_engine_loads_no_library(tmp_path, monkeypatch):
    monkeypatch.setenv(backend.ENVIRONMENT_VARIABLE, "embedded")
    (tmp_path / "some.so").write_bytes(b"")
    with pytest.raises(BackendError, match="the embedded engine runs plugins written in Python"):
        plugin_libraries.load_plugin_library(tmp_path / "some.so")

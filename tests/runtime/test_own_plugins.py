"""The library of compiled plugins: where it is looked for, what it says of itself, what is refused before it loads."""

import json

import pytest
from test_engine_dir import make
from test_host_check import BUILT, Registry, creator, host, refused

import trtllm_ext as tx
from trtllm_ext.errors import BackendError
from trtllm_ext.runtime import own_plugins, plugin_libraries
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.envelope import PluginSummary

BUDGET_S = 2

NORM = PluginSummary(name="ResidualNorm", version="1", namespace="trtllm_ext")
INFO = {
    "tensorrt": "10.14.1",
    "tensorrt_major": 10,
    "kernels_abi": 1,
    "cuda": "13.0",
    "architectures": "90a",
    "plugins": [{"name": "ResidualNorm", "version": "1", "namespace": "trtllm_ext"}],
}


def library(path, **changes):
    """A file with the text that the library carries."""
    text = json.dumps({**INFO, **changes}).encode()
    code = b"\x7fELF\0TRTLLM_EXT_PLUGINS_INFO_BEGIN" + text + b"TRTLLM_EXT_PLUGINS_INFO_END\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(code)
    return path


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.delenv(own_plugins.VARIABLE, raising=False)
    monkeypatch.setattr(own_plugins, "PACKAGE_DATA", tmp_path / "package")
    monkeypatch.setattr(own_plugins, "_loaded", None)
    monkeypatch.setattr(own_plugins, "_asked_for", None)
    monkeypatch.setattr(plugin_libraries, "_noted", {})


@pytest.fixture(params=["10", "8"])
def registry(request, monkeypatch):
    """TensorRT's, into which loading a library brings the norm."""
    found = Registry(old=request.param == "8")
    found.brings = [creator("ResidualNorm", "1", "trtllm_ext")]
    host(monkeypatch, registry=found)
    return found


def test_the_order_in_which_it_is_looked_for(tmp_path, monkeypatch):
    assert own_plugins.find_library() is None
    named, packaged = library(tmp_path / "named.so"), tmp_path / "package" / own_plugins.LIBRARY
    monkeypatch.setenv(own_plugins.VARIABLE, str(named))
    assert own_plugins.find_library() == named
    library(packaged)
    assert own_plugins.find_library() == packaged
    own_plugins.use(library(tmp_path / "used.so"))
    assert own_plugins.find_library() == tmp_path / "used.so"
    assert own_plugins.find_library(named) == named


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv(own_plugins.VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(
        BackendError, match=r"that TRTLLM_EXT_PLUGINS names, is not there\. Build it .* `make plugins`"
    ):
        own_plugins.find_library()
    with pytest.raises(BackendError, match="that was asked for, is not there"):
        own_plugins.use(tmp_path / "none.so")
    with pytest.raises(BackendError, match="that was asked for, is not there"):
        tx.Session.from_engine_dir(tmp_path, plugin_library=tmp_path / "none.so")


def test_what_it_says_is_read_without_loading_it(tmp_path):
    info = own_plugins.read_info(library(tmp_path / "some.so"))
    assert (info.tensorrt, info.tensorrt_major, info.architectures) == ("10.14.1", 10, "90a")
    assert info.plugins == (("ResidualNorm", "1", "trtllm_ext"),)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (b"\x7fELF another library", "is not a library of this project's plugins"),
        (
            b"\x7fELF trtllm_ext_kernels_abi",
            "the kernels alone, .* `make plugins TENSORRT_ROOT=.*libtrtllm_ext_plugins",
        ),
        (b"TRTLLM_EXT_PLUGINS_INFO_BEGIN{TRTLLM_EXT_PLUGINS_INFO_END", "is damaged"),
        (b"TRTLLM_EXT_PLUGINS_INFO_BEGIN{}TRTLLM_EXT_PLUGINS_INFO_END", "is damaged"),
        (b"TRTLLM_EXT_PLUGINS_INFO_BEGIN{}", "is not a library"),
    ],
)
def test_other_files_are_refused(tmp_path, code, text):
    (tmp_path / "some.so").write_bytes(code)
    with pytest.raises(BackendError, match=text):
        own_plugins.read_info(tmp_path / "some.so")


def test_loading_notes_where_the_creators_came_from(tmp_path, registry):
    path = library(tmp_path / "some.so")
    assert own_plugins.load(path).path == path
    assert own_plugins.load().path == path
    assert plugin_libraries.library_of(*("ResidualNorm", "1", "trtllm_ext")).name == "some.so"
    assert len(registry.creators) == 1
    with pytest.raises(
        BackendError, match=r"other.so cannot be loaded: this process has the plugins of .*some.so"
    ):
        own_plugins.load(library(tmp_path / "other.so"))


def test_another_library_than_the_one_that_is_loaded_is_not_passed_over(tmp_path, registry):
    path = library(tmp_path / "some.so")
    own_plugins.load(path)
    own_plugins.use(path)
    with pytest.raises(
        BackendError, match=r"other.so cannot be loaded: this process has the plugins of .*some.so"
    ):
        own_plugins.use(library(tmp_path / "other.so"))
    assert own_plugins.asked_for() == path


def test_an_engine_finds_its_library(tmp_path, registry, monkeypatch):
    make(tmp_path / "engine", **BUILT, plugins=(NORM,))
    told = refused(tmp_path / "engine")
    assert "was built with the plugin 'ResidualNorm' version '1' in namespace 'trtllm_ext'" in told
    assert "are not built" in told and "TRTLLM_EXT_PLUGINS names none" in told and "`make plugins`" in told
    monkeypatch.setenv(own_plugins.VARIABLE, str(library(tmp_path / "some.so")))
    EngineDir.read(tmp_path / "engine").check_host()


def test_a_library_for_another_major_version(tmp_path, registry, monkeypatch):
    path = library(tmp_path / "some.so", tensorrt="8.6.1", tensorrt_major=8)
    monkeypatch.setenv(own_plugins.VARIABLE, str(path))
    make(tmp_path / "engine", **BUILT, plugins=(NORM,))
    told = refused(tmp_path / "engine")
    assert f"{path} was built for TensorRT 8.6.1, but TensorRT 10.14.1 is in use" in told
    assert not registry.creators


def test_a_plugin_version_that_the_library_lacks(tmp_path, registry, monkeypatch):
    path = library(tmp_path / "some.so")
    monkeypatch.setenv(own_plugins.VARIABLE, str(path))
    newer = PluginSummary(name="ResidualNorm", version="2", namespace="trtllm_ext")
    make(tmp_path / "engine", **BUILT, plugins=(newer,))
    told = refused(tmp_path / "engine")
    assert "version '2' in namespace 'trtllm_ext' is needed, but" in told
    assert f"{path} (built for TensorRT 10.14.1) has version '1' of it" in told


def test_creators_that_an_application_registered_are_enough(tmp_path, registry):
    registry.creators += registry.brings
    make(tmp_path / "engine", **BUILT, plugins=(NORM,))
    EngineDir.read(tmp_path / "engine").check_host()


def test_a_library_whose_creators_are_there_already_is_said_to_be_left_aside(tmp_path, registry, caplog):
    registry.creators += registry.brings
    path = library(tmp_path / "some.so")
    own_plugins.load(path)
    (told,) = caplog.messages
    assert told.startswith(
        f"{path} is not loaded: an application has registered plugins of its names already"
    )
    assert plugin_libraries.library_of("ResidualNorm", "1", "trtllm_ext") is None


def test_a_layer_without_the_library_is_an_error_with_the_way_out(registry):
    from trtllm_ext.plugin.creators import creator_of
    from trtllm_ext.plugin.residual_norm import RESIDUAL_NORM

    with pytest.raises(BackendError, match=r"are not built: .* or leave the plugin settings out"):
        creator_of(RESIDUAL_NORM)


def test_a_layer_loads_the_library(tmp_path, registry, monkeypatch):
    from trtllm_ext.plugin.creators import creator_of
    from trtllm_ext.plugin.residual_norm import RESIDUAL_NORM

    monkeypatch.setenv(own_plugins.VARIABLE, str(library(tmp_path / "some.so")))
    assert creator_of(RESIDUAL_NORM) is registry.brings[0]

"""The project's own plugins inside TensorRT: engines with them beside the embedded engine, and what is refused.

    TRTLLM_EXT_PLUGINS=libtrtllm_ext_plugins.so PYTHONPATH=.:tests \\
        python tests/on_tensorrt/plugins_on_tensorrt.py FILE [--processes N] [...]

A case's line has `why`: what was seen. Every engine is built by `trtllm-ext build`, saved, and run by a process that
has built none, at three sizes. The embedded engine has plain layers in the plugins' places, so that the dry run
(`--engine embedded`) tries the cases themselves.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import cases
import planted
from checks import Checks, Model, refusal
from engines import difference

from trtllm_ext.runtime import own_plugins
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.envelope import engine_name

CASES = Checks()
ALL = {"ffn_plugin": "auto", "residual_norm_plugin": "auto", "gated_activation_plugin": "auto"}
NAMES = {
    "ffn_plugin": "FeedForward",
    "residual_norm_plugin": "ResidualNorm",
    "gated_activation_plugin": "GatedActivation",
}
# Form: the plugins that its engines have, where all are asked for. gated_activation is for what is no whole sublayer.
FORMS = {
    "gpt2": {"FeedForward", "ResidualNorm"},
    "bert": {"FeedForward", "ResidualNorm"},
    "llama_swiglu": {"FeedForward", "ResidualNorm"},
    "gemma2_sandwich": {"FeedForward", "ResidualNorm"},
    "encoder, mean of tokens": {"FeedForward", "ResidualNorm"},
}
ALONE = {
    ("gpt2", "ffn_plugin"),
    ("gpt2", "residual_norm_plugin"),
    ("llama_swiglu", "ffn_plugin"),
    ("llama_swiglu", "residual_norm_plugin"),
    ("llama_swiglu", "gated_activation_plugin"),
}
# What loads and runs an engine directory in a process of its own, where no library is part of the package.
LOADING = """
import sys
from pathlib import Path
from trtllm_ext.runtime import own_plugins
own_plugins.PACKAGE_DATA = Path("/nonexistent")
import trtllm_ext as tx
from trtllm_ext.errors import TrtllmExtError
try:
    tx.Session.from_engine_dir(sys.argv[1]).close()
except TrtllmExtError as sentence:
    print(f"refused: {sentence}")
    sys.exit(3)
print("loaded")
"""
# `trtllm-ext`, likewise.
BUILDING = """
import sys
from pathlib import Path
from trtllm_ext.runtime import own_plugins
own_plugins.PACKAGE_DATA = Path("/nonexistent")
from trtllm_ext.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def plugins_of(directory: Path) -> set[str]:
    """The plugins that an engine's envelope tells of."""
    return {each.name for each in EngineDir.read(directory, 0).envelope.plugins}


def right(folder: Path, form: str, dtype: str, settings: dict[str, str], expected: set[str]) -> str:
    """An engine with plugins gives what the embedded engine gives of the native network."""
    model = Model(folder, form, dtype)
    directory = model.build(plugin_config=settings)
    found = plugins_of(directory)
    assert found == expected, f"the engine has {found or 'no plugin'}; {expected} are to be there"
    return f"{', '.join(sorted(found))}: {model.check(directory)}; built in {model.seconds:.1f} s"


for dtype in ("float32", "float16"):
    for form, expected in FORMS.items():
        CASES.enter(right, form, dtype, ALL, expected, name=f"{dtype} {form}: all plugins")
    for form, setting in sorted(ALONE):
        CASES.enter(
            right, form, dtype, {setting: dtype}, {NAMES[setting]}, name=f"{dtype} {form}: {setting} alone"
        )


def beside_native(folder: Path, dtype: str) -> str:
    """The same checkpoint natively and with plugins, both by TensorRT."""
    model = Model(folder, "gpt2", dtype)
    native = model.run(model.build("native"))
    ours = model.run(model.build("ours", plugin_config=ALL))
    worst = max(difference(one, other)[0] for one, other in zip(ours, native, strict=True))
    assert worst <= model.allowed, f"differs from the native engine by {worst:.1e}"
    return f"differs from the native engine by {worst:.1e}"


for dtype in ("float32", "float16"):
    CASES.enter(beside_native, dtype, name=f"{dtype} beside the native engine")


def two_in_one_process(folder: Path) -> str:
    """Two engines with plugins of other sizes, in turns in one process."""
    import trtllm_ext as tx

    first, second = Model(folder, "gpt2", "float16"), Model(folder, "llama_swiglu", "float16", seed=2)
    with (
        tx.Session.from_engine_dir(first.build("first", plugin_config=ALL)) as one,
        tx.Session.from_engine_dir(second.build("second", plugin_config=ALL)) as two,
    ):
        rights = [
            each.run(each.build(f"right{number}", on="embedded"), on="embedded")
            for number, each in enumerate((first, second))
        ]
        worst = 0.0
        for number, inputs in enumerate(zip(first.inputs, second.inputs, strict=True)):
            for session, given, wanted in zip((one, two), inputs, rights, strict=True):
                worst = max(worst, difference(session.run(given), wanted[number])[0])
    assert worst <= first.allowed, worst
    return f"right within {worst:.1e}"


CASES.enter(two_in_one_process)


def loaded(directory: Path, library: Path | None) -> str:
    """What a new process says of an engine directory with this library, or none."""
    environment = cases.environment(cases.engine()) | {own_plugins.VARIABLE: str(library or "")}
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(directory)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode in (0, 3), f"exit code {done.returncode}: {done.stderr[-1500:]}"
    return done.stdout.strip()


def engine_with_plugins(folder: Path) -> tuple[Model, Path]:
    model = Model(folder, "gpt2", "float16")
    return model, model.build(plugin_config=ALL)


def told(model: Model, said: str, *words: str) -> str:
    """The sentence, which has these words; the embedded engine's engines have no plugin to refuse."""
    if model.on == "embedded":
        assert said == "loaded", said
    else:
        missing = [word for word in words if word not in said]
        assert said.startswith("refused") and not missing, f"without {missing}: {said}"
    return said


def missing_library(folder: Path) -> str:
    model, directory = engine_with_plugins(folder)
    return told(model, loaded(directory, None), "make plugins", own_plugins.VARIABLE)


def other_major(folder: Path) -> str:
    """A library that says that it is for another TensorRT is not even opened."""
    model, directory = engine_with_plugins(folder)
    if model.on == "embedded":
        return told(model, loaded(directory, None))
    words = {b'"tensorrt_major": 8': b'"tensorrt_major": 9', b'"tensorrt": "8': b'"tensorrt": "9'}
    said = loaded(directory, _changed_library(folder, words))
    return told(model, said, "for TensorRT 9.", "TensorRT 8.", "make plugins")


def damaged_library(folder: Path) -> str:
    model, directory = engine_with_plugins(folder)
    if model.on == "embedded":
        return told(model, loaded(directory, None))
    words = {b"TRTLLM_EXT_PLUGINS_INFO_BEGIN": b"TRTLLM_EXT_PLUGINS_INFO_BEGAN"}
    return told(model, loaded(directory, _changed_library(folder, words)), "make plugins")


def other_version(folder: Path) -> str:
    """An engine that asks for a version of a plugin that is not there: refused before TensorRT sees its bytes."""
    model, directory = engine_with_plugins(folder)
    if model.on == "embedded":
        return told(model, loaded(directory, None))
    from dataclasses import replace

    plugins = EngineDir.read(directory, 0).envelope.plugins
    planted.resealed(directory, plugins=tuple(replace(each, version="9") for each in plugins))
    return told(model, loaded(directory, own_plugins.find_library()), "'9'", "'1'")


def damaged_layer(folder: Path, step: int) -> str:
    """Bytes of a plugin's own are others in the engine, and the envelope vouches for them: refused, no crash."""
    model, directory = engine_with_plugins(folder)
    if model.on == "embedded":
        return told(model, loaded(directory, None))

    def change(data: bytearray) -> bytearray:
        first = data.find(b"TLXLAYER")
        assert first >= 0, "the engine has no layer of this project's plugins"
        data[first + step] ^= 0x10
        return data

    planted.damaged(directory, change, seal=True)
    return told(model, loaded(directory, own_plugins.find_library()))


def _changed_library(folder: Path, words: dict[bytes, bytes]) -> Path:
    """A copy of the library in which words are others, of the same length."""
    library = own_plugins.find_library()
    assert library is not None, own_plugins.missing_library()
    data = library.read_bytes()
    for old, new in words.items():
        assert old in data, f"{library} does not have {old!r}"
        data = data.replace(old, new)
    changed = folder / library.name
    changed.write_bytes(data)
    return changed


for each in (missing_library, other_major, damaged_library, other_version):
    CASES.enter(each)
for step in (0, 10, 40, 100):
    CASES.enter(damaged_layer, step, name=f"damaged_layer, byte {step}")


def no_library_at_the_build(folder: Path) -> str:
    """Asking for plugins where there are none is an error with the way out, and no engine."""
    model = Model(folder, "gpt2", "float16")
    if model.on == "embedded":
        return model.check(model.build(plugin_config=ALL))
    environment = cases.environment(model.on) | {own_plugins.VARIABLE: ""}
    given = ["build", "--checkpoint_dir", str(model.checkpoint), "--output_dir", str(folder / "engine")]
    given += ["--max_num_tokens", "32", "--ffn_plugin", "auto"]
    done = subprocess.run(
        [sys.executable, "-c", BUILDING, *given], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1, f"exit code {done.returncode}: {done.stderr[-1500:]}"
    assert "make plugins" in done.stderr, done.stderr[-1500:]
    assert not (folder / "engine" / engine_name(0)).exists()
    return done.stderr.strip().splitlines()[-1]


def library_of_the_flag(folder: Path) -> str:
    """--plugin_library names the library, wherever the variable points."""
    model = Model(folder, "gpt2", "float16")
    library = own_plugins.find_library()
    if model.on == "embedded" or library is None:
        return model.check(model.build(plugin_config=ALL))
    copy = Path(shutil.copy(library, folder / "copy.so"))
    given = ["build", "--checkpoint_dir", str(model.checkpoint), "--output_dir", str(folder / "engine")]
    given += ["--max_num_tokens", "32", "--ffn_plugin", "auto", "--plugin_library", str(copy), "--no_tf32"]
    done = subprocess.run(
        [sys.executable, "-m", "trtllm_ext", *given],
        env=cases.environment(model.on) | {own_plugins.VARIABLE: "/nonexistent/library.so"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    return loaded(folder / "engine", library)


for each in (no_library_at_the_build, library_of_the_flag):
    CASES.enter(each)


def unknown_choice(folder: Path) -> str:
    model = Model(folder)
    return refusal(lambda: model.build(plugin_config={"ffn_plugin": "int4"}), "ffn_plugin", "float16")


CASES.enter(unknown_choice)

if __name__ == "__main__":
    sys.exit(cases.main(__file__, CASES))

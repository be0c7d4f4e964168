"""docs/building.md says what the code does: its flags exist, its table is what NVIDIA's bindings have."""

import re
import shlex
from pathlib import Path

import pytest
from dressed_tensorrt import dressed

import trtllm_ext.embedded as trt
from trtllm_ext.builder import BuildConfig, Builder, build_engine_dir
from trtllm_ext.builder.build_config import SETTINGS
from trtllm_ext.builder.tensorrt_settings import DEFAULTS, settings_of
from trtllm_ext.cli import main as cli
from trtllm_ext.errors import ConfigError
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint

BUDGET_S = 3

TEXT = (Path(__file__).parents[2] / "docs/building.md").read_text()
_, *ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| `")
]
RELEASES = ("8.6.1", "10.14.1.48.post1", "11.4.0.106")
# A value that asks for something, where one is to be had in every release that has the setting.
ASKING = {
    **{name: not default for name, default in DEFAULTS.items() if isinstance(default, bool)},
    "builder_optimization_level": 2,
    "memory_pool_limits": {"workspace": 1 << 20},
    "profiling_verbosity": "detailed",
    "hardware_compatibility_level": "ampere_plus",
}


def test_every_setting_has_a_row_and_its_default():
    names = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[0])}
    assert names == {
        *DEFAULTS,
        "strongly_typed",
        "precision_constraints",
        "force_num_profiles",
        "input_timing_cache",
        "output_timing_cache",
    }
    for name, default in re.findall(r"`(\w+)` \((.+?)\)", " ".join(row[0] for row in ROWS)):
        written = {"true": True, "false": False, "null": None, "{}": {}}.get(default, default.strip('"'))
        assert SETTINGS[name] == written, name


def test_every_flag_is_one_of_build_run_or_refit():
    parsers = cli.make_parser()._subparsers._group_actions[0].choices
    known = {
        name for command in ("build", "run", "refit") for name in parsers[command]._option_string_actions
    }
    assert set(re.findall(r"(?<!\w)--\w+", TEXT)) <= known


def taken(release, **settings):
    with dressed(release):
        builder, asked = Builder(), BuildConfig(**settings)
        try:
            builder.create_builder_config(
                precision="float32", strongly_typed=asked.strongly_typed, **settings_of(asked)
            )
        except ConfigError:
            return None
        return builder.create_network().strongly_typed


@pytest.mark.parametrize(
    "row", [row for row in ROWS if re.match(r"`(\w+)`", row[0])[1] in DEFAULTS], ids=lambda row: row[0]
)
def test_the_table_is_what_the_releases_have(row):
    name = re.match(r"`(\w+)`", row[0])[1]
    for release, cell in zip(RELEASES, row[2:5], strict=True):
        assert cell == ("no" if taken(release, **{name: ASKING[name]}) is None else "yes"), release


def test_typing_is_what_the_releases_have():
    [row] = [row for row in ROWS if row[0].startswith("`strongly_typed`")]
    for release, cell in zip(RELEASES, row[2:5], strict=True):
        kinds = {taken(release, strongly_typed=wish) for wish in (True, False)} - {None}
        assert cell == {(True,): "true only", (False,): "false only"}.get(tuple(kinds), "both"), release


@pytest.mark.parametrize(
    ("missing", "settings"),
    [
        ("tactic_shared_memory", {"memory_pool_limits": {"tactic_shared_memory": 1}}),
        ("same_compute_capability", {"hardware_compatibility_level": "same_compute_capability"}),
    ],
)
def test_single_values_that_8_6_lacks(missing, settings):
    assert f"`{missing}`" in TEXT
    assert [taken(release, **settings) is not None for release in RELEASES] == [False, True, True]


def test_the_commands_run(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    Path("CKPT").mkdir()
    write_random_checkpoint(
        "CKPT", sublayer_stack_config(hidden_size=8, ffn_hidden_size=16, num_hidden_layers=1)
    )
    (block,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for command in block.splitlines():
        assert cli.main(shlex.split(command.removeprefix("trtllm-ext "))) == 0, command
    build_engine_dir("CKPT", "AGAIN", BuildConfig(use_refit=True))
    logger = trt.Logger()
    engine = trt.Runtime(logger).deserialize_cuda_engine(Path("AGAIN/rank0.engine").read_bytes())
    [name] = re.findall(r"named after the parameters \(`(.*?)`\)", TEXT)
    assert name in trt.Refitter(engine, logger).get_all_weights()

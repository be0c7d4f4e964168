"""docs/serving.md says what the command takes and the server counts."""

import dataclasses
import json
import re
from math import prod
from pathlib import Path

import pytest

from trtllm_ext.cli.main import make_parser
from trtllm_ext.serve.refused import Reason
from trtllm_ext.serve.settings import ServeSettings

BUDGET_S = 1

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def options_of(command):
    (commands,) = (
        each for each in make_parser()._actions if hasattr(each, "choices") and each.dest == "command"
    )
    return commands.choices[command]._option_string_actions


def test_every_flag_is_the_commands_and_every_setting_is_told():
    told = set(re.findall(r"--[a-z_]+", PAGE))
    assert told <= set(options_of("serve")), told - set(options_of("serve"))
    assert {f"--{field.name}" for field in dataclasses.fields(ServeSettings)} <= told


@pytest.mark.parametrize(
    "name",
    [
        "max_queue_delay_microseconds",
        "max_queue_size",
        "max_request_bytes",
        "request_timeout",
        "exit_timeout_secs",
    ],
)
def test_defaults_are_those_of_the_settings_and_of_the_help(name):
    default = f"{getattr(ServeSettings(model_name='m'), name):.0f}"
    assert re.search(rf"^\| `--{name}` \| {default} \|", PAGE, re.M)
    assert f"default: {default})" in options_of("serve")[f"--{name}"].help


def test_the_requests_to_paste_are_whole():
    bodies = [json.loads(text) for text in re.findall(r"/infer -d '([^']+)'", PAGE)]
    assert {entry["name"] for body in bodies for entry in body["inputs"]} >= {"text", "input_ids"}
    for body in bodies:
        for entry in body["inputs"]:
            assert len(entry["data"]) == prod(entry["shape"]) and entry["datatype"] in ("BYTES", "INT32")
    (program,) = re.findall(r"```python\n(.+?)```", PAGE, re.S)
    compile(program, "serving.md", "exec")


def test_every_status_is_in_the_table_of_errors():
    for reason in Reason:
        assert re.search(rf"^\| {reason.http_status} \| .*\|$", PAGE, re.M)
        if reason is not Reason.TOO_SLOW:  # gRPC has deadlines of the client's own
            assert reason.grpc_status in PAGE


def test_every_metric_is_there():
    pytest.importorskip("prometheus_client", reason="mlserver is not installed")
    source = (Path(__file__).parents[2] / "trtllm_ext" / "serve" / "metrics.py").read_text()
    counted = set(re.findall(r'"(trtllm_ext_[a-z_]+)"', source))
    assert {name.removesuffix("_total") for name in re.findall(r"`(trtllm_ext_[a-z_]+)`", PAGE)} == counted

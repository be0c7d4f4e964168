"""What the Dockerfiles, compose.yaml and the context must say; none is built here."""

import json
import re
import shlex
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trtllm_ext.cli.main import make_parser

BUDGET_S = 5
ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
# The clients that mlserver and tokenizers ask for on behalf of commands that nothing here uses.
CLIENTS = {"tritonclient", "gevent", "geventhttpclient", "huggingface-hub"}


def instructions(name):
    """(stage, instruction, rest) of each line of a Dockerfile, continued lines joined."""
    text = (DOCKER / name).read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    stage = ""
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.rpartition(" AS ")[2]
        yield stage, word, " ".join(rest.split())


def of_stage(name, stage, word):
    return [rest for where, each, rest in instructions(name) if (where, each) == (stage, word)]


@pytest.fixture(params=["Dockerfile", "Dockerfile.cpu"])
def dockerfile(request):
    return request.param


def test_the_image_s_user_is_not_root(dockerfile):
    assert of_stage(dockerfile, "image", "USER") == ["${UID}:${UID}"]
    assert of_stage(dockerfile, "image", "ARG")[0] == "UID=1000"
    after = [word for stage, word, _ in instructions(dockerfile) if stage == "image"]
    assert "RUN" not in after[after.index("USER") :]


def test_health_is_asked_of_doctor(dockerfile):
    (check,) = of_stage(dockerfile, "image", "HEALTHCHECK")
    assert check.endswith('CMD ["trtllm-ext", "doctor", "--quick"]')


def test_the_entrypoint_is_started_by_one_that_hands_signals_on(dockerfile):
    (entrypoint,) = of_stage(dockerfile, "image", "ENTRYPOINT")
    assert entrypoint == '["dumb-init", "--single-child", "--", "trtllm-ext-entrypoint"]'
    copied = "--chmod=755 docker/entrypoint.sh /opt/trtllm_ext/bin/trtllm-ext-entrypoint"
    assert copied in of_stage(dockerfile, "image", "COPY")


def test_nothing_is_installed_or_compiled_in_the_last_stage(dockerfile):
    said = " ".join(of_stage(dockerfile, "image", "RUN"))
    assert not re.search(r"\b(pip|apt-get|make|cmake|nvcc)\b", said)
    assert "COPY --from=build /opt/trtllm_ext" in (DOCKER / dockerfile).read_text()


def test_onnxruntime_does_not_report_its_use_from_an_image(dockerfile):
    assert "ORT_DISABLE_TELEMETRY=1" in " ".join(of_stage(dockerfile, "image", "ENV"))


def test_bases_are_arguments(dockerfile):
    first = {
        rest.partition("=")[0]
        for stage, word, rest in instructions(dockerfile)
        if (stage, word) == ("", "ARG")
    }
    assert "BASE_IMAGE" in first
    bases = {rest.partition(" ")[0] for _, word, rest in instructions(dockerfile) if word == "FROM"}
    assert bases <= {"${BASE_IMAGE}", "build", "image"}


def test_the_gpu_image_keeps_its_tensorrt():
    """No installation takes dependencies along, and what is installed lies above the image's own packages."""
    runs = " ".join(of_stage("Dockerfile", "build", "RUN"))
    installs = re.findall(r"pip (?:--python \S+ )?(install|wheel|download) ([^&]*)", runs)
    assert [word for word, _ in installs] == ["wheel", "download", "install"]
    assert all("--no-deps" in rest for _, rest in installs)
    assert "--python /opt/trtllm_ext/bin/python install" in runs
    assert "venv --without-pip --system-site-packages /opt/trtllm_ext" in runs
    assert 'make plugins TENSORRT_ROOT="${TENSORRT_ROOT}"' in runs


def test_the_gpu_image_is_that_of_the_last_release_with_the_tensorrt_path():
    assert of_stage("Dockerfile", "", "ARG") == [
        "TRTLLM_VERSION=1.2.1",
        "BASE_IMAGE=nvcr.io/nvidia/tensorrt-llm/release:${TRTLLM_VERSION}",
    ]


def closure(names):
    """The distributions that these need on Linux, and those that they need."""
    seen, open_ones = set(), {(canonicalize_name(name), "") for name in names}
    while open_ones:
        name, extra = open_ones.pop()
        if name in CLIENTS or (name, extra) in seen:
            continue
        seen.add((name, extra))
        for need in map(Requirement, metadata.distribution(name).requires or ()):
            if (
                need.marker is None
                or need.marker.evaluate({"extra": extra})
                or need.marker.evaluate({"extra": ""})
            ):
                open_ones |= {(canonicalize_name(need.name), each) for each in ("", *need.extras)}
    return {name for name, _ in seen}


def test_packages_for_the_gpu_image_are_those_that_are_asked_for():
    lines = (DOCKER / "gpu-packages.txt").read_text().splitlines()
    named = [line for line in lines if not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = map(
        Requirement, [*project["dependencies"], *project["optional-dependencies"]["serve"], "tokenizers"]
    )
    needed = closure(each.name for each in asked) | {"dumb-init"}
    assert named == sorted(needed - {"numpy", "setuptools"})
    pinned = {
        canonicalize_name(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()
    }
    assert set(named) <= pinned


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]


def test_compose_serves_on_all_addresses_of_the_container_and_on_this_machine_s_own(services):
    for name, service in services.items():
        assert service["profiles"] == [name]
        assert service["command"] == ["serve", "--engine_dir", "/engine", "--host", "0.0.0.0"]
        assert service["ports"] == [f"${{BIND:-127.0.0.1}}:{port}:{port}" for port in (8000, 8001, 8002)]
        assert "/v2/health/ready" in service["healthcheck"]["test"][-1]
        assert service["stop_grace_period"] == "45s"
        assert service["volumes"][0].endswith(":/engine:ro")
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["shm_size"] == "256mb"


def test_compose_gives_the_gpu_what_it_needs(services):
    assert set(services) == {"cpu", "gpu"}
    gpu = services["gpu"]
    assert gpu["ipc"] == "host"
    assert gpu["ulimits"] == {"memlock": -1, "stack": 64 << 20}
    # Ranks on GPUs have not run, and this is one GPU.
    assert gpu["environment"] == {"TRTLLM_EXT_BACKEND": "tensorrt"}
    assert services["cpu"]["environment"] == {"TRTLLM_EXT_NPROC": "${NPROC:-1}"}
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])


def test_what_dockerfiles_copy_is_in_the_context(dockerfile):
    allowed = {
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    for stage in {stage for stage, _, _ in instructions(dockerfile)}:
        for copied in of_stage(dockerfile, stage, "COPY"):
            if "--from=" not in copied:
                for source in [word for word in copied.split()[:-1] if not word.startswith("--")]:
                    assert (ROOT / source).exists()
                    assert source.partition("/")[0] in allowed


def test_the_context_is_small():
    """What git has of what .dockerignore lets through; all else begins with its `*`."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    assert {"**/__pycache__", "trtllm_ext/plugin/lib"} < set(lines)
    allowed = [line[1:] for line in lines if line[0] == "!"]
    listed = subprocess.run(
        ["git", "ls-files", *allowed], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = listed.stdout.splitlines()
    assert "trtllm_ext/version.py" in files and "docker/entrypoint.sh" in files
    assert sum((ROOT / file).stat().st_size for file in files if (ROOT / file).exists()) < 8e6


def readme_lines():
    text = (DOCKER / "README.md").read_text()
    return text.partition("```sh\n")[2].partition("\n```")[0].splitlines()


def test_the_three_lines_of_the_readme_fit_the_image():
    """From `docker build` to curl: stage, tag, port, the model's name and its input are those of the image."""
    build, run, curl = map(shlex.split, readme_lines())
    assert build[:2] == ["docker", "build"] and build[-1] == "."
    given = dict(zip(build[2:-1:2], build[3:-1:2], strict=True))
    assert (ROOT / given["-f"]).is_file()
    command = json.loads(of_stage("Dockerfile.cpu", given["--target"], "CMD")[0])
    assert run[-1] == given["-t"]
    arguments = make_parser().parse_args(command)
    assert (arguments.command, arguments.host, arguments.input) == ("serve", "0.0.0.0", "text")
    assert run[run.index("-p") + 1].endswith(":8000:8000")
    (address,) = [word for word in curl if word.startswith("127.0.0.1")]
    assert address == f"127.0.0.1:8000/v2/models/{arguments.model_name}/infer"
    (request,) = json.loads(curl[curl.index("-d") + 1])["inputs"]
    assert (request["name"], request["datatype"], request["shape"]) == ("text", "BYTES", [1])


def test_compose_starts_a_command_that_there_is(services):
    for service in services.values():
        arguments = make_parser().parse_args(service["command"])
        assert (arguments.command, arguments.engine_dir, arguments.host) == ("serve", "/engine", "0.0.0.0")

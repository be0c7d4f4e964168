"""What is tried inside of an image that buildah has built; used by build_without_daemon.py."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SENTENCES = "The weather is lovely today.", "It is sunny outside.", "He drove to the stadium."
READY_S = 90.0
END_S = 40.0


class CheckError(Exception):
    """The image does not do what it is for."""


class Container:
    """A container of an image; `run` is what `docker run` would do, entrypoint and user included.

    buildah: the command with its global options.
    """

    def __init__(self, buildah: Sequence[str], image: str) -> None:
        self._buildah = list(buildah)
        self._image = image

    def __enter__(self) -> Self:
        self._name = self._ask("from", "--pull-never", self._image)
        self.root = Path(self._ask("mount", self._name))
        self.config = json.loads(self._ask("inspect", "--type", "image", self._image))["Docker"]["config"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ask("umount", self._name)
        self._ask("rm", self._name)

    def command(
        self, *words: str, volumes: Mapping[Path, str] | None = None, env: Mapping[str, str] | None = None
    ) -> list[str]:
        """The command that runs the entrypoint with `words`. volumes: folders here, and where they are mounted."""
        options = [
            word for here, there in (volumes or {}).items() for word in ("--volume", f"{here}:{there}:ro")
        ]
        options += [word for name, value in (env or {}).items() for word in ("--env", f"{name}={value}")]
        return [*self._buildah, "run", *options, self._name, "--", *self.config["Entrypoint"], *words]

    def run(self, *words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words, **settings), capture_output=True, text=True, check=False)

    def output(self, *words: str, **settings: Any) -> str:
        """What a command prints on both streams; CheckError unless it ends well."""
        done = self.run(*words, **settings)
        if done.returncode != 0:
            raise CheckError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def _ask(self, *words: str) -> str:
        return subprocess.run(
            [*self._buildah, *words], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()


def check_image(container: Container, model: Path, examples: Path) -> None:
    """All that an image without an engine can show. model: a folder with the package of the demo's model."""
    given = {
        "volumes": {model: "/models", examples: "/examples"},
        "env": {"PYTHONPATH": "/models"},
    }
    _try("health check", lambda: _health(container))
    _try("not root", lambda: _user(container))
    _try("doctor", lambda: container.output("doctor"))
    _try("exit codes and wrong usage", lambda: _exit_codes(container))
    _try("SIGTERM ends a program", lambda: _ends_at_sigterm(container))
    for ranks in ("1", "2"):
        demo = ("sh", "/examples/demo.sh", f"/work/demo-{ranks}", ranks)
        said = _try(f"demo, {ranks} rank(s)", lambda demo=demo: container.output(*demo, **given))
        print("  ", _expect(r"^largest difference from Hugging Face transformers: \S+ \(within .*$", said))
    _try("ranks by the environment", lambda: _ranks(container))
    serve = ("serve", "--engine_dir", "/work/demo-2/engine", "--model_name", "minilm", "--input", "text")
    check_server(container, serve, env={"TRTLLM_EXT_NPROC": "2"})


def check_server(
    container: Container, begin: Sequence[str] = (), text: Sequence[str] = SENTENCES, **given: Any
) -> None:
    """A server answers curl with numbers, and ends at SIGTERM. begin: what starts it (default: the image's command)."""
    ports = dict(zip(("--http_port", "--grpc_port", "--metrics_port"), map(str, _free_ports(3)), strict=True))
    address = f"http://127.0.0.1:{ports['--http_port']}"
    words = [*(begin or container.config["Cmd"]), *(word for pair in ports.items() for word in pair)]
    name = words[words.index("--model_name") + 1]
    with _started(container, words, **given) as server:
        _try(
            "server is ready", lambda: _until(lambda: _curl(f"{address}/v2/health/ready") is not None, server)
        )
        request = {
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(text)], "data": list(text)}]
        }
        answer = _try("curl", lambda: _curl(f"{address}/v2/models/{name}/infer", json.dumps(request)))
        outputs = {each["name"]: each for each in json.loads(answer or "{}").get("outputs", ())}
        vectors = outputs.get("sentence_embedding", {"shape": [0]})
        if vectors["shape"][0] != len(text):
            raise CheckError(f"the server answered {answer!r:.500}")
        _says_what_is_alike(vectors)
        _try("SIGTERM ends the server", lambda: _end(server, 0))


def _health(container: Container) -> None:
    test = container.config["Healthcheck"]["Test"]
    if test != ["CMD", "trtllm-ext", "doctor", "--quick"]:
        raise CheckError(f"the health check is {test}")
    print("  ", _expect(r"\Ahealthy: .*\Z", container.output(*test[1:]).strip()))
    ill = container.run(*test[1:], env={"TRTLLM_EXT_BACKEND": "tensorrt"})
    _expect(r"^unhealthy: engine: ", ill.stdout)
    if ill.returncode != 1:
        raise CheckError(
            f"the health check of an image without the engine asked for ends with {ill.returncode}"
        )


def _user(container: Container) -> None:
    if container.config["User"] in ("", "0", "root", "0:0"):
        raise CheckError(f"the image's user is {container.config['User']!r}")
    user = container.output("id", "-u").strip()
    if user == "0":
        raise CheckError("the entrypoint runs as root")
    print(f"   user {user}")
    for place in ("/opt/trtllm_ext/lib", "/opt/trtllm_ext/bin", "/usr/bin", "/etc"):
        if container.run("touch", f"{place}/x").returncode == 0:
            raise CheckError(f"its user can write to {place}")
    container.output("touch", "/work/x")
    for tool in ("gcc", "make", "pip"):
        if container.run("sh", "-c", f"command -v {tool}").returncode == 0:
            raise CheckError(f"{tool} is in the image")


def _exit_codes(container: Container) -> None:
    for words, code in {
        ("inspect", "--engine_dir", "/nowhere"): 1,
        ("run",): 2,
        ("sh", "-c", "exit 7"): 7,
    }.items():
        # buildah says the program's code in words, and ends with 1 where it is one of its own.
        done = container.run(*words)
        _expect(rf"exit(ed with)? status {code}\b", done.stderr)
    _expect(r"^usage: trtllm-ext", container.output())
    _expect("is no number of ranks", container.run("--nproc", "two", "run").stderr)


def _ranks(container: Container) -> None:
    program = "from trtllm_ext.parallel import launched_rank, launched_size; print(launched_rank(), launched_size())"
    said = container.output("python", "-c", program, env={"TRTLLM_EXT_NPROC": "2"})
    if sorted(said.split("\n")) != ["", "0 2", "1 2"]:
        raise CheckError(f"a program as two ranks said {said!r}")


def _ends_at_sigterm(container: Container) -> None:
    """A program that handles no signal: as process 1 of a container it would not end."""
    with _started(
        container, ["python", "-c", "import time; print('begun', flush=True); time.sleep(600)"]
    ) as program:
        _expect("begun", program.stdout.readline())
        _end(program, None)


@contextmanager
def _started(container: Container, words: Sequence[str], **given: Any) -> Iterator["subprocess.Popen[str]"]:
    program = subprocess.Popen(
        container.command(*words, **given),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield program
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        for each in _below(program.pid):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        program.wait()


def _end(program: "subprocess.Popen[str]", code: int | None) -> None:
    """SIGTERM to what is process 1 in a container. code: what it has to end with; None for any."""
    first = [each for each in _below(program.pid) if _name(each) == "dumb-init"]
    if len(first) != 1:
        raise CheckError(f"of its processes {len(first)} are dumb-init")
    os.kill(first[0], signal.SIGTERM)
    try:
        said = program.communicate(timeout=END_S)[0]
    except subprocess.TimeoutExpired as error:
        raise CheckError(f"it has not ended {END_S:g} s after SIGTERM") from error
    if code is not None and program.returncode != code:
        raise CheckError(f"it ended with {program.returncode} after SIGTERM:\n{said}")


def _below(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    with suppress(OSError):
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        others = [int(each) for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)
                  for each in (task / "children").read_text().split()]  # fmt: skip
        return [each for child in (*children, *others) for each in (child, *_below(child))]
    return []


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _until(is_so: Callable[[], bool], program: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + READY_S
    while not is_so():
        if program.poll() is not None:
            raise CheckError(f"the server ended with {program.returncode}:\n{program.communicate()[0]}")
        if time.monotonic() > deadline:
            raise CheckError(f"the server is not ready after {READY_S:g} s")
        time.sleep(0.2)


def _curl(address: str, body: str | None = None) -> str | None:
    """What a server answers; None where it does not, or not with 200."""
    given = ["--data", body] if body else []
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30", *given, address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if body and done.returncode != 0:
        raise CheckError(f"curl {address}: {done.stdout}{done.stderr}")
    return done.stdout if done.returncode == 0 else None


def _says_what_is_alike(vectors: Mapping[str, Any]) -> None:
    rows, width = vectors["shape"]
    data = [vectors["data"][row * width : (row + 1) * width] for row in range(rows)]
    alike = [sum(a * b for a, b in zip(data[0], other, strict=True)) for other in data]
    print("   cosines with the first sentence:", ", ".join(f"{each:.4f}" for each in alike))
    if not (abs(alike[0] - 1) < 1e-4 and alike[1] > alike[2] + 0.2):
        raise CheckError(
            f"the cosines are {alike}; the second sentence says the same as the first, the third does not"
        )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _expect(pattern: str, text: str) -> str:
    """The first place that is of the pattern."""
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise CheckError(f"{pattern!r} is not in: {text}")
    return found[0]


def _try(what: str, action: Callable[[], Any]) -> Any:
    begin = time.monotonic()
    try:
        result = action()
    except CheckError as error:
        raise CheckError(f"{what}: {error}") from error
    print(f"ok {what} ({time.monotonic() - begin:.1f} s)", flush=True)
    return result

"""A server whose ranks are processes: right numbers, however long it waits; every end is a clean one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ranked_services import service_engine
from server_process import Server

from trtllm_ext.parallel.launch import launcher_options
from trtllm_ext.parallel.world import launch_from
from trtllm_ext.runtime import Rehearsal

BUDGET_S = 1  # all of it long

LIMIT_S = 30
TIMEOUT_S = 2.0
X = np.random.default_rng(1).normal(size=(7, 64)).astype(np.float32)
SERVE = [sys.executable, "-m", "trtllm_ext", "serve"]
NPROC, MPIRUN = "--nproc", "mpirun"

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("mpi_launcher", "one_thread")]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return service_engine(tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="module")
def expected(engine):
    with Rehearsal(engine) as rehearsal:
        return rehearsal.run({"hidden_states": X})[0]["hidden_states_out"]


@contextmanager
def serving(engine, launcher, way=NPROC, flags=()):
    """A server of two ranks, under --nproc or a launcher of the test's."""
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}_port", "0")]
    command = [*SERVE, "--engine_dir", str(engine), *ports, *flags]
    if way == NPROC:
        command += ["--nproc", "2"]
    else:
        options = launcher_options(launcher, ["TRTLLM_EXT_NUM_THREADS", "TRTLLM_EXT_RANK_TIMEOUT"])
        command = [*launcher, *options, "-n", "2", *command]
    environment = {**os.environ, "TRTLLM_EXT_RANK_TIMEOUT": str(TIMEOUT_S)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = process.stdout.readline()
        found = [int(number) for number in re.findall(r" on [^ ]*:(\d+)[,;]", line)]
        assert len(found) == 3, (line, process.communicate(timeout=LIMIT_S))
        yield Server(process, *found)
    finally:
        process.kill()
        process.wait()


def ranks_of(engine):
    """Process ids of rank 0, which listens, and of the other one."""
    pids = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(
                each.split("=", 1) for each in (folder / "environ").read_text().split("\0") if "=" in each
            )
            words = (folder / "cmdline").read_text().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        launch = launch_from(variables)
        if "serve" in words and str(engine) in words and launch is not None:
            pids[launch.rank] = int(folder.name)
    return [pids[rank] for rank in range(2)]


def ask(server):
    """The answer to X. Raises OSError where there is none."""
    tensor = {"name": "hidden_states", "datatype": "FP32", "shape": X.shape, "data": X.ravel().tolist()}
    url = f"http://127.0.0.1:{server.http_port}/v2/models/engine/infer"
    request = urllib.request.Request(url, json.dumps({"inputs": [tensor]}).encode())
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        output = json.load(answer)["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])


class Clients:
    """So many threads that ask until they are told to stop, or have no server any more."""

    def __init__(self, server, count=4):
        self.answers, self.errors, self._is_over = [], [], False
        self._threads = [threading.Thread(target=self._ask, args=(server,)) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, server):
        while not self._is_over:
            try:
                self.answers.append(ask(server))
            except (OSError, ValueError) as problem:  # refused, or a connection that broke
                self.errors.append(problem)
                return

    def stop(self):
        self._is_over = True
        for thread in self._threads:
            thread.join(LIMIT_S)


def good_end(launcher, way):
    """The exit code: OpenMPI's mpirun has 1 when a signal ended it, however its ranks ended."""
    return 1 if way == MPIRUN and launcher_options(launcher) else 0


def ended(server):
    out, err = server.process.communicate(timeout=LIMIT_S)
    return server.process.returncode, out, err


@pytest.mark.parametrize("way", [NPROC, MPIRUN])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_waits_answers_and_ends(engine, expected, mpi_launcher, way, number):
    with serving(engine, mpi_launcher, way) as server:
        assert ask(server).tobytes() == expected.tobytes()
        time.sleep(3 * TIMEOUT_S)
        assert ask(server).tobytes() == expected.tobytes()
        server.process.send_signal(number)
        code, _, err = ended(server)
        assert (code, err) == (good_end(mpi_launcher, way), "")


@pytest.mark.parametrize("way", [NPROC, MPIRUN])
def test_a_signal_under_load_loses_no_request_that_was_accepted(engine, expected, mpi_launcher, way):
    with serving(engine, mpi_launcher, way) as server:
        clients = Clients(server)
        time.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        code, _, err = ended(server)
        clients.stop()
        assert (code, err) == (good_end(mpi_launcher, way), "")
        assert len(clients.answers) > 50
        assert {each.tobytes() for each in clients.answers} == {expected.tobytes()}
        # A connection that was not accepted any more is the client's business; nothing else may be.
        for error in clients.errors:
            assert isinstance(getattr(error, "reason", error), ConnectionRefusedError), repr(error)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("way", [NPROC, MPIRUN])
def test_a_rank_that_is_killed_under_load(engine, expected, mpi_launcher, way, rank):
    with serving(engine, mpi_launcher, way) as server:
        pids = ranks_of(engine)
        clients = Clients(server)
        time.sleep(1)
        os.kill(pids[rank], signal.SIGKILL)
        code, _, err = ended(server)
        clients.stop()
        assert code not in (0, None)
        assert re.search(rf"rank {rank} (was ended by signal 9|has died)", err), err
        assert len(clients.errors) == 4, "every client was told, or cut off"
        assert clients.answers, clients.errors
        assert {each.tobytes() for each in clients.answers} == {expected.tobytes()}, (
            "and none got a wrong number"
        )


def test_a_rank_that_is_stopped_while_nothing_runs(engine, mpi_launcher):
    with serving(engine, mpi_launcher) as server:
        stopped = ranks_of(engine)[1]
        os.kill(stopped, signal.SIGSTOP)
        code, _, err = ended(server)
        assert code not in (0, None)
        assert "the process of rank 1 is stopped" in err.splitlines()[-1]


def test_a_signal_to_a_rank_that_follows_ends_all_in_good_order(engine, expected, mpi_launcher):
    with serving(engine, mpi_launcher) as server:
        clients = Clients(server)
        time.sleep(1)
        os.kill(ranks_of(engine)[1], signal.SIGTERM)
        code, _, err = ended(server)
        clients.stop()
        assert (code, err) == (0, "")
        assert {each.tobytes() for each in clients.answers} == {expected.tobytes()}


def test_two_signals_end_it_at_once(engine, mpi_launcher):
    with serving(engine, mpi_launcher) as server:
        address = ("127.0.0.1", server.http_port)
        with socket.create_connection(address) as connection:
            connection.sendall(
                b"POST /v2/models/engine/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"
            )
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(1.5)
            assert server.process.poll() is None, "the body of a request is still to come"
            server.process.send_signal(signal.SIGTERM)
            assert ended(server)[0] == 143


@pytest.mark.parametrize("way", [NPROC, MPIRUN])
def test_a_port_that_is_taken(engine, mpi_launcher, way):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with (
            pytest.raises(AssertionError) as caught,
            serving(engine, mpi_launcher, way, ["--http_port", port]),
        ):
            pass
    assert f"trtllm-ext: error: rank 0: port {port} of 127.0.0.1 is in use" in str(caught.value)
    assert str(caught.value).count("trtllm-ext: error") == 1


def test_an_engine_of_one_rank_under_a_launcher(tmp_path, mpi_launcher):
    from small_encoder import make_encoder

    with pytest.raises(AssertionError) as caught, serving(make_encoder(tmp_path), mpi_launcher):
        pass
    assert "the engine was built for 1 rank, this world has 2" in str(caught.value)

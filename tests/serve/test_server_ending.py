"""A server of packed bfloat16 tokens that is stopped under load, and what keeps one from starting."""

import builtins
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import ml_dtypes
import numpy as np
import pytest
from server_process import serving

import trtllm_ext as tx
from trtllm_ext.cli import main as cli
from trtllm_ext.errors import ConfigError
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint
from trtllm_ext.runtime import Session
from trtllm_ext.serve.ports import listening_socket
from trtllm_ext.serve.settings import ServeSettings

grpc_client = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
http_client = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")

BUDGET_S = 8

HIDDEN = 64


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    config = sublayer_stack_config(
        hidden_size=HIDDEN, ffn_hidden_size=128, num_hidden_layers=2, dtype="bfloat16"
    )
    write_random_checkpoint(folder / "checkpoint", config)
    tx.build_engine_dir(folder / "checkpoint", folder / "engine", tx.BuildConfig(max_num_tokens=16))
    return folder / "engine"


def tokens(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, HIDDEN)).astype(ml_dtypes.bfloat16)


def given(module, x):
    made = module.InferInput("hidden_states", list(x.shape), "BF16")
    made._raw_data = x.tobytes()  # tritonclient makes its own bfloat16 of float32 only
    if module is http_client:
        made._parameters["binary_data_size"] = x.nbytes
    else:
        made._raw_content = x.tobytes()
    return [made]


def json_body(x):
    entry = {
        "name": "hidden_states",
        "datatype": "BF16",
        "shape": list(x.shape),
        "data": x.astype(float).tolist(),
    }
    return json.dumps({"inputs": [entry]}).encode()


def bits(answer, module):
    """tritonclient shows bfloat16 as the float32 that it is a part of."""
    return answer.as_numpy("hidden_states_out").astype(ml_dtypes.bfloat16)


class Load:
    """Clients that ask again as soon as they have an answer, until they are told that the server leaves."""

    def __init__(self, server, body):
        self.server, self.body = server, body
        self.answered, self.lost, self.sent_away = 0, [], []
        self._threads = [threading.Thread(target=ask) for ask in [self._by_http] * 8 + [self._by_grpc] * 8]
        for thread in self._threads:
            thread.start()

    def _by_http(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.http_port)
        while True:
            try:
                connection.connect() if connection.sock is None else None
            except ConnectionRefusedError:
                self.sent_away.append("http")
                return
            try:
                connection.request("POST", "/v2/models/engine/infer", self.body)
                answer = connection.getresponse()
                assert answer.status == 200 and answer.read()
            except Exception as problem:
                self.lost.append(problem)
                return
            self.answered += 1

    def _by_grpc(self):
        with grpc_client.InferenceServerClient(f"127.0.0.1:{self.server.grpc_port}") as client:
            while True:
                try:
                    client.infer("engine", given(grpc_client, tokens(2)))
                except grpc_client.InferenceServerException as problem:
                    is_told = problem.status() == "StatusCode.UNAVAILABLE"
                    (self.sent_away if is_told else self.lost).append(problem)
                    return
                self.answered += 1

    def join(self):
        for thread in self._threads:
            thread.join()


def test_bfloat16_and_an_end_under_load_that_loses_nothing(engine, one_thread):
    x = tokens(3)
    with Session.from_engine_dir(engine) as session:
        expected = session.run({"hidden_states": x})["hidden_states_out"]
    body = json_body(x)
    with serving(engine) as server:
        for module, port in ((http_client, server.http_port), (grpc_client, server.grpc_port)):
            with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
                np.testing.assert_array_equal(
                    bits(client.infer("engine", given(module, x)), module), expected
                )
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port)
        connection.request("POST", "/v2/models/engine/infer", body)
        (output,) = json.loads(connection.getresponse().read())["outputs"]
        shown = np.array(output["data"], np.float32).reshape(3, HIDDEN)
        assert output["datatype"] == "BF16"
        np.testing.assert_array_equal(shown, expected.astype(np.float32))

        load = Load(server, body)
        time.sleep(0.5)
        code, said = server.stop()
        load.join()
    assert (code, said) == (0, "")
    assert not load.lost and len(load.sent_away) == 16 and load.answered > 16


@pytest.mark.long
@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]],
    ids=lambda signals: " and ".join(number.name for number in signals),
)
@pytest.mark.parametrize("flags", [[], ["--max_batch_size", "1"]], ids=["joined", "in a long queue"])
def test_nothing_is_lost_whatever_asks_it_to_end(engine, signals, flags):
    for turn in range(4):
        with serving(engine, *flags) as server:
            load = Load(server, json_body(tokens(1 + turn)))
            time.sleep(0.3 + 0.1 * turn)
            for number in signals:  # within a second they are one wish
                server.process.send_signal(number)
            _, said = server.process.communicate(timeout=30)
            load.join()
            assert (server.process.returncode, said) == (0, "")
        assert not load.lost and len(load.sent_away) == 16 and load.answered > 16


@pytest.mark.long
def test_a_second_signal_ends_it_with_what_is_unanswered(engine):
    with (
        serving(engine, "--exit_timeout_secs", "60", "--request_timeout", "60") as server,
        socket.create_connection(("127.0.0.1", server.http_port)) as slow,
    ):
        slow.sendall(b"POST /v2/models/engine/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        assert server.process.poll() is None, "it waits for the request that has begun"
        code, said = server.stop()
    assert code == 1 and said.startswith("trtllm-ext: error: ended before all was answered")


SLOW_TO_END = """
import time
from trtllm_ext.serve.runner import Runner, TensorSpec
from trtllm_ext.serve.serving import serve
from trtllm_ext.serve.settings import ServeSettings

class Slow(Runner):
    def run(self, arrays):
        return arrays

    def close(self):
        time.sleep(60)

spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
settings = ServeSettings(model_name="m", http_port=0, grpc_port=0, metrics_port=0)
serve(lambda: Slow(inputs=(spec,), outputs=(spec,)), settings, lambda line: print(line, flush=True))
"""


@pytest.mark.long
def test_a_second_signal_is_heard_while_the_runner_ends():
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_END], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ending:
        try:
            assert ending.stdout.readline().startswith("serving 'm'")
            ending.send_signal(signal.SIGTERM)
            time.sleep(1.5)
            assert ending.poll() is None, "it waits for the runner"
            ending.send_signal(signal.SIGTERM)
            _, said = ending.communicate(timeout=5)
        finally:
            ending.kill()
    assert ending.returncode == 1 and "ended before all was answered: 0 request(s)" in said


@pytest.mark.long
def test_the_shortest_time_to_end_in_is_enough_for_one_with_nothing_to_do(engine):
    with serving(engine, "--exit_timeout_secs", "1") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port)
        connection.request("POST", "/v2/models/engine/infer", json_body(tokens(2)))
        assert connection.getresponse().read()
        assert server.stop() == (0, "")


def test_a_port_in_use_is_told_before_the_engine_is_read():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "trtllm_ext", "serve", "--engine_dir", "nowhere", "--http_port", "0"]
        command += ["--metrics_port", "0", "--grpc_port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True)
        told = (
            f"port {port} of 127.0.0.1 is in use by another program; give --grpc_port another one, or 0 for one that "
            f"is free."
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"trtllm-ext: error: {told}\n")
        with pytest.raises(ConfigError, match=told.replace("grpc", "http")):
            listening_socket("127.0.0.1", port, "--http_port")
    with listening_socket("127.0.0.1", port, "--http_port") as bound:
        assert bound.getsockname()[1] == port


def test_without_the_library_it_says_how_to_get_it(capsys, monkeypatch):
    real = builtins.__import__

    def without(name, *more):
        if name.split(".")[0] == "mlserver":
            raise ImportError("No module named 'mlserver'", name="mlserver")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}_port", "0")]
    assert cli.main(["serve", "--engine_dir", "engine", *ports]) == 1
    told = (
        "serve needs the package mlserver, which is not installed. In the checkout: "
        "pip install -c constraints.txt '.[serve]'"
    )
    assert capsys.readouterr().err == f"trtllm-ext: error: {told}\n"


def test_the_library_is_loaded_by_this_command_only():
    code = """
import sys
from trtllm_ext.cli.main import make_parser
import trtllm_ext.serve.runner
make_parser().format_help()
print([name for name in ('mlserver', 'grpc', 'uvicorn', 'prometheus_client') if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"model_name": "a/b"}, "cannot stand in an address"),
        ({"http_port": 70000}, "http_port=70000 is out of range; give from 0 to 65535"),
        ({"grpc_port": 8000}, "http_port and grpc_port are both 8000"),
        ({"max_batch_size": 0}, "max_batch_size=0 is out of range; give 1 or more"),
        ({"max_queue_size": 0}, "give 1 or more"),
        ({"max_request_bytes": 2**31}, "give from 1 to 2147483647"),
        ({"request_timeout": 0}, "request_timeout=0"),
        ({"exit_timeout_secs": 0}, "exit_timeout_secs=0 is out of range; give 1 or more"),
        ({"max_queue_delay_microseconds": -1}, "out of range"),
    ],
)
def test_settings_that_cannot_be(wrong, told):
    with pytest.raises(ConfigError, match=told):
        ServeSettings(**{"model_name": "m", **wrong})


def test_an_address_that_is_not_this_machines():
    with pytest.raises(ConfigError, match=r"cannot listen on port 0 of 192\.0\.2\.1"):
        listening_socket("192.0.2.1", 0, "--http_port")
    with pytest.raises(ConfigError, match="--host no such host is no address of this machine"):
        listening_socket("no such host", 0, "--http_port")

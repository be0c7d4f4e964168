"""One server of a small stack for all files that ill-treat one."""

import numpy as np
import pytest
from server_process import serving, triton_inputs

import trtllm_ext as tx
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint
from trtllm_ext.runtime import Session

HIDDEN, MOST_TOKENS = 8, 16


@pytest.fixture(scope="session")
def small_engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_clients")
    write_random_checkpoint(
        folder / "checkpoint",
        sublayer_stack_config(hidden_size=HIDDEN, ffn_hidden_size=16, num_hidden_layers=1),
    )
    tx.build_engine_dir(folder / "checkpoint", folder / "engine", tx.BuildConfig(max_num_tokens=MOST_TOKENS))
    return folder / "engine"


@pytest.fixture(scope="session")
def known(small_engine):
    """An input and what the session gives for it."""
    x = np.random.default_rng(0).normal(size=(3, HIDDEN)).astype(np.float32)
    with Session.from_engine_dir(small_engine) as session:
        return x, session.run({"hidden_states": x})["hidden_states_out"].copy()


@pytest.fixture(scope="session")
def small_server(small_engine):
    with serving(small_engine, "--model_name", "small", "--request_timeout", "1") as server:
        yield server
        assert server.stop() == (0, ""), "bad clients are no reason to write to the log"


@pytest.fixture
def server(small_server, known):
    """The server; whatever a test does to it, the next good clients get the right numbers."""
    yield small_server
    x, expected = known
    grpc_client = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    http_client = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    for module, port in ((http_client, small_server.http_port), (grpc_client, small_server.grpc_port)):
        with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
            answer = client.infer(
                "small", triton_inputs(module, {"hidden_states": x}, {"hidden_states": "FP32"})
            )
            np.testing.assert_allclose(answer.as_numpy("hidden_states_out"), expected, atol=1e-6)

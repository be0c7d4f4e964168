"""What `export --triton` writes, in a real Triton server: config.pbtxt is taken, and requests are joined as it says."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from stack_forms import HIDDEN, TABLE, config_of
from triton_server import for_python_backend, install, serving
from tritonclient.utils import InferenceServerException

import trtllm_ext as tx
from trtllm_ext.builder import export_triton
from trtllm_ext.models import encoder_config, write_random_checkpoint

BUDGET_S = 45

pytestmark = pytest.mark.long

TYPES = {"float32": "FP32", "int32": "INT32"}


def ask(client, api, model, feeds):
    inputs = []
    for name, array in feeds.items():
        inputs.append(api.InferInput(name, list(array.shape), TYPES[array.dtype.name]))
        inputs[-1].set_data_from_numpy(array)
    answer = client.infer(model, inputs)
    outputs = (
        [each["name"] for each in answer.get_response()["outputs"]]
        if api is tritonclient.http
        else [each.name for each in answer.get_response().outputs]
    )
    return {name: answer.as_numpy(name) for name in outputs}


def feeds_of(model, count, rng):
    """Inputs of `count` rows."""
    if model == "encoder":
        ids = rng.integers(0, 50, (count, 9)).astype(np.int32)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    feeds = {"hidden_states": rng.normal(size=(count, HIDDEN)).astype(np.float32)}
    if model == "attended":
        feeds["attention_output"] = rng.normal(size=(2, count, HIDDEN)).astype(np.float32)
    return feeds


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(repository, sessions by model)"""
    folder = tmp_path_factory.mktemp("triton")
    plain = config_of(TABLE["tanh"])
    encoder = encoder_config(
        hidden_size=32,
        ffn_hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        vocab_size=50,
        max_position_embeddings=32,
    )
    tokens, sentences = tx.BuildConfig(max_num_tokens=32), tx.BuildConfig(max_batch_size=16, max_input_len=16)
    configs = {
        "stack": (plain, tokens),
        "attended": (replace(plain, contract=replace(plain.contract, attention_input=True)), tokens),
        "encoder": (encoder, sentences),
    }
    sessions = {}
    for name, (config, limits) in configs.items():
        write_random_checkpoint(folder / f"{name}-ckpt", config)
        tx.build_engine_dir(folder / f"{name}-ckpt", folder / name, limits)
        for _ in range(2):
            export_triton(folder / name, folder / "models", checkpoint_dir=folder / f"{name}-ckpt")
        sessions[name] = tx.Session.from_engine_dir(folder / name)
    # What a killed export leaves.
    (folder / "models" / "stack" / ".3.writing-x").mkdir()
    return folder / "models", sessions


def test_configs_are_taken_and_requests_are_joined_and_answered(models, tmp_path_factory):
    repository, sessions = models
    folder = tmp_path_factory.mktemp("server")
    packages, home = install(folder / "environment")
    for_python_backend(repository, packages)
    rng = np.random.default_rng(0)
    with serving(repository, home, folder / "log") as (http, grpc, printed):
        for api, address in ((tritonclient.http, http), (tritonclient.grpc, grpc)):
            client = api.InferenceServerClient(address)
            for name, session in sessions.items():
                assert client.is_model_ready(name, "2") and not client.is_model_ready(name, "1")
                for count in (1, 5, 16):
                    check(session, ask(client, api, name, feeds := feeds_of(name, count, rng)), feeds)
            for name, most in (("stack", 32), ("encoder", 16)):
                with pytest.raises(InferenceServerException, match=f"batch-size must be <= {most}"):
                    ask(client, api, name, feeds_of(name, most + 1, rng))
            client.close()
        before = len(printed())
        for name, session in sessions.items():
            check_many_at_once(http, name, session, rng)
        runs = [line.split()[1:] for line in printed()[before:].splitlines() if line.startswith("RUN ")]
    joined = {name for name, *rows in runs if len(set(rows)) > 1}
    assert joined == {"stack", "encoder"}, "of which models requests of different sizes were joined"


def check_many_at_once(address, name, session, rng):
    feeds = [feeds_of(name, 1 + i % 5, rng) for i in range(48)]

    def one(given):
        with tritonclient.http.InferenceServerClient(address) as client:
            return ask(client, tritonclient.http, name, given)

    with ThreadPoolExecutor(24) as pool:
        for given, answer in zip(feeds, pool.map(one, feeds), strict=True):
            check(session, answer, given)


def check(session, answer, feeds):
    want = session.run(feeds)
    assert set(answer) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(answer[name], value, rtol=1e-4, atol=1e-5, err_msg=name)

"""Sentences to a server and vectors back: by the example's client over HTTP and gRPC, by the page's curl line."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from server_process import serving, triton_inputs
from small_encoder import expected_vectors, make_encoder

BUDGET_S = 7

ROOT = Path(__file__).parent.parent.parent
CLIENT = ROOT / "examples" / "similar_sentences.py"
SECTION = (ROOT / "docs" / "serving.md").read_text().split("## Sentences\n")[1].split("\n## ")[0]
SENTENCES = ["w1 w2 w3 w4", "w20 w21", "w1 w2 w3 w5", "W20  W21", " ".join(["w7"] * 30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    for package in ("mlserver", "tokenizers", "tritonclient"):
        # Not imported: mlserver and tritonclient cannot be in one process, which both define the protocol's messages.
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    path = tmp_path_factory.mktemp("encoder")
    make_encoder(path)
    return path


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder / "engine", "--input", "text") as started:
        yield started
        assert started.stop() == (0, "")


def ask(server, body):
    """The status and the JSON of the answer."""
    url = f"http://127.0.0.1:{server.http_port}/v2/models/engine/infer"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode())) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as problem:
        return problem.code, json.load(problem)


def text_of(*sentences, **changes):
    text = {"name": "text", "datatype": "BYTES", "shape": [len(sentences)], "data": sentences}
    return {"inputs": [{**text, **changes}]}


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_the_example_s_client(server, folder, tmp_path, way):
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES))
    address = f"127.0.0.1:{getattr(server, f'{way}_port')}"
    command = [sys.executable, str(CLIENT), str(tmp_path / "sentences.txt"), f"--{way}", address]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    first, *pairs = run.stdout.splitlines()
    assert first == "5 sentences as vectors of 32 numbers, 1 of them cut"
    # The same words, then what the formulas say of the others.
    assert pairs[0] == "1.000  w20 w21  |  W20  W21"
    vectors = expected_vectors(folder / "checkpoint", SENTENCES)
    cosine = vectors @ vectors.T
    for line in pairs:
        value, *both = re.split(r"  (?=[wW])|  \|  ", line, maxsplit=2)
        first, second = (SENTENCES.index(each) for each in both)
        assert float(value) == pytest.approx(cosine[first, second], abs=6e-4)
    failed = subprocess.run([*command, "--model", "other"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "'other'" in failed.stderr and "Traceback" not in failed.stderr


def test_the_page_s_curl_line(server, folder):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (line,) = re.findall(r"^(curl .*?)\n```", SECTION, re.MULTILINE | re.DOTALL)
    port = f"127.0.0.1:{server.http_port}"
    run = subprocess.run(["sh", "-c", line.replace("127.0.0.1:8000", port)], capture_output=True, check=False)
    answer = {each["name"]: each for each in json.loads(run.stdout)["outputs"]}
    sentences = re.findall(r'"([A-Z][a-z ]+\.)"', line)
    got = np.reshape(answer["sentence_embedding"]["data"], answer["sentence_embedding"]["shape"])
    np.testing.assert_allclose(got, expected_vectors(folder / "checkpoint", sentences), atol=2e-5)
    assert answer["is_cut"]["data"] == [False, False]


def test_bytes_over_http(server, folder):
    import tritonclient.http as client

    given = {"text": np.array([each.encode() for each in SENTENCES], np.object_)}
    with client.InferenceServerClient(f"127.0.0.1:{server.http_port}") as connection:
        answer = connection.infer("engine", triton_inputs(client, given, {"text": "BYTES"}))
        assert connection.get_model_metadata("engine")["parameters"]["max_tokens"] == "20"
    wanted = expected_vectors(folder / "checkpoint", SENTENCES)
    np.testing.assert_allclose(answer.as_numpy("sentence_embedding"), wanted, atol=2e-5)
    assert answer.as_numpy("is_cut").tolist() == [False] * 4 + [True]


def test_bytes_that_are_no_text(server):
    import tritonclient.grpc as client

    given = {"text": np.array([b"w1", b"caf\xe9"], np.object_)}
    connection = client.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    with pytest.raises(client.InferenceServerException, match="sentence 2 is not UTF-8: byte 3 is 0xe9"):
        connection.infer("engine", triton_inputs(client, given, {"text": "BYTES"}))
    connection.close()


@pytest.mark.parametrize(
    "body, sentence",
    [
        (text_of(), "holds 0 sentences; a request has 1 to 1024"),
        (text_of(*(["w1"] * 1025)), "holds 1025 sentences; a request has 1 to 1024"),
        (text_of("w" * 40000), "sentence 1 has 40000 bytes; at most 32768 are taken"),
        (text_of("w1", shape=[1, 1]), "has shape [1, 1]; expected [-1]"),
        (text_of("w1", shape=[2]), "input 'text'"),
        (text_of(5), "input 'text'"),
        (text_of("\ud800"), "input 'text'"),
        (text_of(1.0, datatype="FP32"), "has datatype 'FP32'; expected 'BYTES'"),
    ],
    ids=[
        "none",
        "too many",
        "too long",
        "two dimensions",
        "another count",
        "a number",
        "half a pair",
        "type",
    ],
)
def test_what_is_refused(server, body, sentence):
    status, answer = ask(server, body)
    assert (status, list(answer)) == (400, ["error"])
    assert sentence in answer["error"] or "JSON" in answer["error"]
    assert ask(server, text_of("w1"))[0] == 200


def test_a_tokenizer_without_sentences(folder, capsys):
    from trtllm_ext.cli import main as cli

    assert cli.main(["serve", "--engine_dir", str(folder / "engine"), "--tokenizer", "elsewhere"]) == 1
    assert (
        "--tokenizer makes tokens of sentences, which clients send with --input text"
        in capsys.readouterr().err
    )


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_example_from_end_to_end(tmp_path, minilm_dir, ranks, request):
    """With the trained model: the similarities are those of its reference vectors."""
    from trtllm_ext.cli import main as cli

    flags = []
    if ranks > 1:
        request.getfixturevalue("mpi_launcher")
        flags = ["--nproc", str(ranks)]
    checkpoint = [
        "--model_dir",
        str(minilm_dir),
        "--output_dir",
        f"{tmp_path}/checkpoint",
        "--tp_size",
        str(ranks),
    ]
    assert cli.main(["convert", *checkpoint]) == 0
    built = ["--checkpoint_dir", f"{tmp_path}/checkpoint", "--output_dir", f"{tmp_path}/engine"]
    assert cli.main(["build", *built, "--max_batch_size", "4"]) == 0
    script, sentences = ROOT / "examples" / "serve_sentences.sh", ROOT / "examples" / "sentences.txt"
    run = subprocess.run(
        ["sh", str(script), f"{tmp_path}/engine", str(sentences), *flags],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    vectors = np.load(ROOT / "examples" / "reference_vectors.npz")["sentence_embedding"]
    cosine = np.sort((vectors @ vectors.T)[np.triu_indices(len(vectors), 1)])[::-1]
    told = [float(value) for value in re.findall(r"^(-?\d\.\d{3})  ", run.stdout, re.MULTILINE)]
    np.testing.assert_allclose(told, np.tile(cosine[:5], 2), atol=6e-4)
    assert run.stdout.endswith("the server has ended with exit code 0\n")

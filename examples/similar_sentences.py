"""How similar sentences are, by the vectors of a server: `trtllm-ext serve --engine_dir ENGINE --input text`.

  python similar_sentences.py sentences.txt                          over HTTP, with nothing but Python
  python similar_sentences.py sentences.txt --grpc 127.0.0.1:8001    over gRPC (pip install 'tritonclient[grpc]')

--model is the name that the server gives its model: that of the engine's directory, unless it was given another.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

MOST_SHOWN = 5


def over_http(address, model, sentences):
    """Vectors, and whether each sentence was cut. Numbers as JSON: any HTTP client can do that."""
    text = {"name": "text", "datatype": "BYTES", "shape": [len(sentences)], "data": sentences}
    request = urllib.request.Request(
        f"http://{address}/v2/models/{model}/infer", json.dumps({"inputs": [text]}).encode()
    )
    try:
        with urllib.request.urlopen(request) as answer:
            outputs = json.load(answer)["outputs"]
    except urllib.error.HTTPError as problem:
        sys.exit(f"{address}: {json.load(problem)['error']}")
    arrays = {each["name"]: np.reshape(each["data"], each["shape"]) for each in outputs}
    return arrays["sentence_embedding"], arrays["is_cut"]


def over_grpc(address, model, sentences):
    """The same by Triton's client, which sends bytes."""
    import tritonclient.grpc as client

    text = client.InferInput("text", [len(sentences)], "BYTES")
    text.set_data_from_numpy(np.array([each.encode() for each in sentences], np.object_))
    try:
        answer = client.InferenceServerClient(address).infer(model, [text])
    except client.InferenceServerException as problem:
        sys.exit(f"{address}: {problem.message()}")
    return answer.as_numpy("sentence_embedding"), answer.as_numpy("is_cut")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="one sentence a line")
    parser.add_argument("--http", metavar="HOST:PORT", default="127.0.0.1:8000")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="ask over gRPC instead")
    parser.add_argument("--model", default="engine")
    arguments = parser.parse_args()

    sentences = [line.strip() for line in Path(arguments.file).read_text().splitlines() if line.strip()]
    ask, address = (over_grpc, arguments.grpc) if arguments.grpc else (over_http, arguments.http)
    vectors, is_cut = ask(address, arguments.model, sentences)
    print(f"{len(sentences)} sentences as vectors of {vectors.shape[1]} numbers, {is_cut.sum()} of them cut")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    first, second = np.triu_indices(len(sentences), 1)
    for place in np.argsort(-cosine[first, second], kind="stable")[:MOST_SHOWN]:
        a, b = first[place], second[place]
        print(f"{cosine[a, b]:.3f}  {sentences[a]}  |  {sentences[b]}")


if __name__ == "__main__":
    main()

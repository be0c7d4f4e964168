"""Random source weights, shared by the tests of pieces, ledger, files and writer."""

import json

import numpy as np


def random(shape, dtype=np.float32):
    return np.asarray(np.random.default_rng(0).normal(size=shape)).astype(dtype)


def save_unaligned(weights, path):
    """Save float32 and bfloat16 weights behind a header without padding, at an odd byte."""
    header, end = {}, 0
    for name, values in weights.items():
        code = {"float32": "F32", "bfloat16": "BF16"}[values.dtype.name]
        begin, end = end, end + values.nbytes
        header[name] = {"dtype": code, "shape": values.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 2)
    data = b"".join(values.tobytes() for values in weights.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)

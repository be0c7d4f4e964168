"""The sentence encoder's engine beside bare ONNX Runtime, PyTorch and transformers, in one interleaved run.

    python benchmarks/encoder.py [--threads N] [--rounds N]

All-MiniLM-L6-v2, float32, every variant with the same threads and the same padded batch, outputs preallocated where
the library can. Correctness is checked before timing. The sessions of ONNX Runtime share one thread pool.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from common import Spread, differences, interleaved, ratios, report

SHAPES = {1: (1, 1), 16: (1, 16), 128: (1, 128), 1024: (8, 128)}  # tokens: (batch, sequence)
NARROW = ("float16", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--rounds", type=int, default=40, help="against bare ONNX Runtime; a quarter for the rest"
    )
    arguments = parser.parse_args()
    os.environ["TRTLLM_EXT_NUM_THREADS"] = str(arguments.threads)
    os.environ["TRTLLM_EXT_THREAD_POOL"] = "process"
    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), arguments.rounds)


def compare(folder: Path, rounds: int) -> None:
    from encoder_variants import (
        bare_onnxruntime,
        engine,
        exported_by_torch,
        model_dir,
        our_graph,
        transformers_model,
    )

    model = transformers_model()
    ours = engine(model_dir(), folder, "float32")
    graphs = {"ORT, our graph": our_graph(folder), "ORT, torch.onnx": exported_by_torch(model, folder)}
    sessions = {name: bare_onnxruntime(path) for name, path in graphs.items()}
    narrow = {dtype: engine(model_dir(), folder, dtype) for dtype in NARROW}
    rows, raw = [], {}
    for tokens, shape in SHAPES.items():
        inputs = random_inputs(shape)
        expected = model.run(inputs)
        variants = {"engine": ours.bound(inputs), **{name: s.bound(inputs) for name, s in sessions.items()}}
        for name, variant in variants.items():
            worst = float(np.abs(variant.output() - expected).max())
            if worst > 1e-4:
                raise SystemExit(
                    f"{name} at {tokens} tokens is off by {worst:.1e}: not timing a wrong result"
                )
        close = {name: variant.run for name, variant in variants.items()}
        # Apart from the close comparison, which the threads of another library would disturb.
        wide = {
            "engine": close["engine"],
            "torch eager": model.bound_encoder(inputs),
            "transformers": model.bound(inputs),
            **{dtype: session.bound(inputs).run for dtype, session in narrow.items()},
        }
        samples = interleaved(close, rounds=rounds), interleaved(wide, rounds=max(3, rounds // 4))
        raw[tokens] = samples
        rows.append(row(tokens, shape, *samples, list(sessions)))
    report(
        "encoder",
        [
            "tokens",
            "engine, ms",
            "engine / better bare ORT",
            "engine - better bare ORT, us",
            "/ ORT, our graph",
            "/ ORT, torch.onnx",
            "/ torch eager",
            "/ transformers",
            "float16 / float32",
            "bfloat16 / float32",
        ],
        rows,
        raw=raw,
        notes="Ratios are paired round by round: median [10 % .. 90 %]. Targets: at most 1.03 from 16 tokens on, "
        "at most 40 us more at 1 token. 'Better' is the bare session with the lower median.",
    )


Samples = dict[str, list[float]]


def row(tokens: int, shape: tuple[int, int], close: Samples, wide: Samples, bare: list[str]) -> list[str]:
    ours = close["engine"]
    better = min(bare, key=lambda name: Spread.of(close[name]).median)
    return [
        f"{tokens} ({shape[0]} x {shape[1]})",
        f"{Spread.of(ours).scaled(1e3):.2f}",
        f"{ratios(ours, close[better]):.3f} ({better})",
        f"{differences(ours, close[better]).scaled(1e6):.0f}",
        *(f"{ratios(ours, close[name]):.2f}" for name in bare),
        *(f"{ratios(wide['engine'], wide[name]):.2f}" for name in ("torch eager", "transformers")),
        *(f"{ratios(wide[name], wide['engine']):.2f}" for name in NARROW),
    ]


def random_inputs(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(1000, 30000, shape).astype(np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


if __name__ == "__main__":
    main()

"""Every form of sublayer as a stack: its engine beside bare ONNX Runtime, in one interleaved run a form.

    python benchmarks/stack.py [--threads N] [--rounds N] [--forms NAME ...]

Four float32 layers with hidden_size 512 and ffn_hidden_size 2048 (of one expert 512). The bare sessions run our
lowered graph and the graph that torch.onnx makes of the same stack in PyTorch; all share one thread pool.
Correctness is checked before timing, against PyTorch.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from common import Spread, interleaved, ratios, report

HIDDEN, FFN, EXPERT_FFN, LAYERS = 512, 2048, 512, 4
TOKENS = (16, 128, 512)
LIMITS = {"max_num_tokens": 512, "opt_num_tokens": 128}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--forms", nargs="*")
    arguments = parser.parse_args()
    os.environ["TRTLLM_EXT_NUM_THREADS"] = str(arguments.threads)
    os.environ["TRTLLM_EXT_THREAD_POOL"] = "process"
    import torch

    from trtllm_ext.checkpoint import FORMS

    torch.set_num_threads(arguments.threads)
    rows, raw = [], {}
    for name in arguments.forms or FORMS:
        with tempfile.TemporaryDirectory() as folder:
            samples = compare(name, Path(folder), arguments.rounds)
        raw[name] = samples
        rows.append(row(name, samples))
        print("\t".join(rows[-1]), flush=True)
    report(
        "stack",
        [
            "form",
            *(f"{tokens} tokens, ms" for tokens in TOKENS),
            *(f"ratio at {tokens}" for tokens in TOKENS),
        ],
        rows,
        raw=raw,
        notes="Ratio: the engine's time over that of the better bare session (the one with the lower median, g: our "
        "graph, t: torch.onnx's), paired round by round: median [10 % .. 90 %]. Target: at most 1.03.",
    )


Samples = dict[int, dict[str, list[float]]]


def compare(name: str, folder: Path, rounds: int) -> Samples:
    """Seconds a call by number of tokens and variant."""
    import torch
    from encoder_variants import bare_onnxruntime
    from onnx_export import save_lowered
    from torch_stack import TorchStack

    import trtllm_ext as tx
    from trtllm_ext.checkpoint import FORMS, load_checkpoint, stack_config
    from trtllm_ext.models import write_random_checkpoint

    form = FORMS[name]
    ffn = EXPERT_FFN if form.mixture is not None else FFN
    config = stack_config(form, hidden_size=HIDDEN, ffn_hidden_size=ffn, num_hidden_layers=LAYERS)
    write_random_checkpoint(folder / "checkpoint", config)
    tx.build_engine_dir(folder / "checkpoint", folder / "engine", tx.BuildConfig(**LIMITS))
    save_lowered(folder / "checkpoint", folder / "ours.onnx", LIMITS)
    weights = load_checkpoint(folder / "checkpoint").weights
    model = TorchStack(
        config, {key: torch.from_numpy(np.array(value)) for key, value in weights.items()}
    ).eval()
    export(model, folder / "torch.onnx")
    result: Samples = {}
    with tx.Session.from_engine_dir(folder / "engine") as engine:  # makes the pool that the bare ones use
        sessions = {"g": bare_onnxruntime(folder / "ours.onnx"), "t": bare_onnxruntime(folder / "torch.onnx")}
        for tokens in TOKENS:
            x = np.random.default_rng(tokens).normal(size=(tokens, HIDDEN)).astype(np.float32)
            with torch.inference_mode():
                expected = model(torch.from_numpy(x)).numpy()
            outputs = engine.run({"hidden_states": x})
            bound = {key: bind(session.session, x) for key, session in sessions.items()}
            for key, got in {
                "engine": outputs["hidden_states_out"],
                **{k: b[1] for k, b in bound.items()},
            }.items():
                error = np.abs(got - expected).max() / np.abs(expected).max()
                if error > 1e-5:
                    raise SystemExit(f"{name}: {key} is off by {error:.1e}: not timing a wrong result")
            variants = {key: call for key, (call, _) in bound.items()}
            feed = {"hidden_states": x}
            variants["engine"] = lambda feed=feed, outputs=outputs: engine.run(feed, outputs)
            result[tokens] = interleaved(variants, rounds=rounds)
    return result


def export(model, path: Path) -> None:
    import torch

    program = torch.onnx.export(
        model,
        (torch.zeros(8, HIDDEN),),
        input_names=["hidden_states"],
        output_names=["hidden_states_out"],
        dynamic_shapes=({0: torch.export.Dim("num_tokens")},),
        dynamo=True,
        verbose=False,
    )
    program.save(str(path))


def bind(session, x):
    """A bare session's call with its input and output in place, and the output of a first run."""
    (entry,) = session.get_outputs()
    output = session.run(None, {"hidden_states": x})[0]
    binding = session.io_binding()
    binding.bind_cpu_input("hidden_states", x)
    binding.bind_output(entry.name, "cpu", 0, output.dtype, output.shape, output.ctypes.data)
    return (lambda: session.run_with_iobinding(binding)), output


def row(name: str, samples: Samples) -> list[str]:
    times, shares = [], []
    for by_variant in samples.values():
        better = min("gt", key=lambda key: Spread.of(by_variant[key]).median)
        times.append(f"{Spread.of(by_variant['engine']).scaled(1e3).median:.2f}")
        shares.append(f"{ratios(by_variant['engine'], by_variant[better]):.3f} ({better})")
    return [name, *times, *shares]


if __name__ == "__main__":
    main()

"""What depth costs: encoders of 6 to 48 layers defined and built, and a call of the smallest engine.

    python benchmarks/depth.py

The encoders have all-MiniLM-L6-v2's form with narrow layers, so that their weights take no time to write. Each is
defined and built in a process of its own, in which everything was imported and a small network built before.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from common import Spread, differences, interleaved, report

DEPTHS = (6, 12, 24, 48)
RUNS = 3


def step(num_layers: int) -> None:
    """Build a network of one layer, then one of `num_layers`; write what the second took."""
    for depth in (1, num_layers):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        taken = define_and_build(depth)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(json.dumps({**taken, "peak_mb": (peak - before) / 1024}))


def define_and_build(num_layers: int) -> dict[str, float]:
    import trtllm_ext as tx
    from trtllm_ext.models import encoder_config, model_from_checkpoint, write_random_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        config = encoder_config(
            hidden_size=48,
            ffn_hidden_size=96,
            num_hidden_layers=num_layers,
            num_attention_heads=12,
            vocab_size=100,
            max_position_embeddings=512,
        )
        write_random_checkpoint(folder, config)
        model = model_from_checkpoint(folder)
        builder = tx.Builder()
        begin = time.perf_counter()
        network = builder.create_network()
        with tx.net_guard(network):
            inputs = model.prepare_inputs(max_batch_size=8, max_input_len=256)
            model(**inputs)
        defined = time.perf_counter()
        config = builder.create_builder_config(precision="float32")
        builder.build_engine(network, config)
        built = time.perf_counter()
    return {"define": defined - begin, "build": built - defined, "layers": network.trt_network.num_layers}


def depths() -> tuple[list[list[str]], list[dict[str, float]]]:
    rows, raw = [], []
    for depth in DEPTHS:
        runs = []
        for _ in range(RUNS):
            command = [sys.executable, __file__, str(depth)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout))
        raw += [{"depth": depth, **run} for run in runs]
        define = Spread.of([run["define"] for run in runs])
        build = Spread.of([run["build"] for run in runs])
        total = Spread.of([run["define"] + run["build"] for run in runs])
        peak = Spread.of([run["peak_mb"] for run in runs])
        rows.append(
            [
                f"{depth}",
                f"{runs[0]['layers']}",
                f"{define:.2f}",
                f"{build:.2f}",
                f"{total:.2f}",
                "5" if depth == 48 else "",
                f"{1e3 * total.median / depth:.0f}",
                f"{peak.median:.0f}",
            ]
        )
    return rows, raw


def smallest_engine() -> tuple[list[str], dict[str, list[float]]]:
    """A network of one RELU over 16 x 64 numbers: the engine against a session of ONNX Runtime over its model."""
    import onnxruntime

    import trtllm_ext.embedded as trt
    from trtllm_ext.embedded.running.threads import num_threads
    from trtllm_ext.lowering.lower import lower

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x = network.add_input("x", trt.float32, (-1, 64))
    y = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    y.name = "y"
    network.mark_output(y)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 64), (16, 64), (64, 64))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()

    given = np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)
    ours = np.empty_like(given)
    context.set_input_shape("x", given.shape)
    context.set_tensor_address("x", given.ctypes.data)
    context.set_tensor_address("y", ours.ctypes.data)
    (segment,) = lower(network, trt).steps
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads()
    session = onnxruntime.InferenceSession(
        segment.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    context.execute_async_v3(0)
    np.testing.assert_array_equal(ours, session.run(None, {"x": given})[0])
    samples = interleaved(
        {
            "engine": lambda: context.execute_async_v3(0),
            "run": lambda: session.run(None, {"x": given}),
        },
        rounds=40,
    )
    spread = differences(samples["engine"], samples["run"]).scaled(1e6)
    engine_us = Spread.of(samples["engine"]).scaled(1e6)
    run_us = Spread.of(samples["run"]).scaled(1e6)
    return [f"{engine_us:.1f}", f"{run_us:.1f}", f"{spread:.1f}", "40"], samples


def main() -> None:
    rows, raw = depths()
    header = [
        "layers of the encoder",
        "layers of the network",
        "define, s",
        "build, s",
        "both, s",
        "target, s",
    ]
    report("depth", [*header, "both, ms a layer", "memory, MB"], rows, raw={"runs": raw})
    row, samples = smallest_engine()
    report(
        "smallest_engine",
        ["execute_async_v3, us", "InferenceSession.run, us", "difference, us", "target, us"],
        [row],
        raw={"seconds": samples},
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        step(int(sys.argv[1]))
    else:
        main()

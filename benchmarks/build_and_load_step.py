"""One step of `build_and_load.py` in a process of its own; prints one JSON object on its last line."""

import argparse
import json
import resource
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["checkpoint", "build", "export", "load"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--ffn", type=int)
    parser.add_argument("--mode", choices=["mapped", "prepack", "bare"])
    arguments = parser.parse_args()
    print(json.dumps(globals()[arguments.step](arguments)))


def checkpoint(arguments: argparse.Namespace) -> dict:
    from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint

    config = sublayer_stack_config(
        hidden_size=arguments.hidden, ffn_hidden_size=arguments.ffn, num_hidden_layers=arguments.layers
    )
    write_random_checkpoint(arguments.folder / "checkpoint", config, seed=0)
    return {}


def build(arguments: argparse.Namespace) -> dict:
    import trtllm_ext as tx

    begin = time.perf_counter()
    tx.build_engine_dir(arguments.folder / "checkpoint", arguments.folder / "engine", tx.BuildConfig())
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def export(arguments: argparse.Namespace) -> dict:
    from onnx_export import save_lowered

    save_lowered(arguments.folder / "checkpoint", arguments.folder / "bare.onnx", {"max_num_tokens": 8192})
    return {}


def load(arguments: argparse.Namespace) -> dict:
    loader = bare_session if arguments.mode == "bare" else engine_session
    # Imports are what every process pays once, whatever it loads, and not part of a load.
    import onnxruntime  # noqa: F401

    import trtllm_ext.embedded
    import trtllm_ext.runtime

    _ = trtllm_ext.runtime.Session
    before = private_bytes()
    begin = time.perf_counter()
    session = loader(arguments)
    seconds = time.perf_counter() - begin
    result = {"seconds": seconds, "private_bytes": private_bytes() - before}
    del session
    return result


def engine_session(arguments: argparse.Namespace) -> object:
    import trtllm_ext as tx

    return tx.Session.from_engine_dir(arguments.folder / "engine", load_mode=arguments.mode)


def bare_session(arguments: argparse.Namespace) -> object:
    import onnxruntime

    return onnxruntime.InferenceSession(
        str(arguments.folder / "bare.onnx"), providers=["CPUExecutionProvider"]
    )


def private_bytes() -> int:
    """Private pages of this process, clean and dirty, from the kernel's own account."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


if __name__ == "__main__":
    main()

"""How long `import trtllm_ext` takes, and what it loads.   python benchmarks/import_time.py"""

import subprocess
import sys

from common import Spread, report

HEAVY = ("torch", "tensorrt", "mpi4py", "onnx", "onnxruntime")
PROGRAM = (
    "import sys, time; begin = time.perf_counter(); import trtllm_ext; "
    "print(time.perf_counter() - begin, *sorted(set(sys.modules) & set(sys.argv[1:])))"
)


def main() -> None:
    samples, loaded = [], set()
    for _ in range(21):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, *HEAVY], capture_output=True, text=True, check=True
        )
        seconds, *modules = run.stdout.split()
        samples.append(float(seconds))
        loaded.update(modules)
    spread = Spread.of(samples).scaled(1e3)
    report(
        "import_time",
        ["what", "milliseconds: median [10 % .. 90 %] of 21 processes", "target", "heavy packages loaded"],
        [["import trtllm_ext", f"{spread:.1f}", "300", ", ".join(sorted(loaded)) or "none"]],
        raw={"seconds": samples, "heavy_loaded": sorted(loaded)},
    )


if __name__ == "__main__":
    main()

"""The first program of docs/migration.md, which is TensorRT-LLM's, gives the bits of the second, which is ours."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[3]
BEFORE, AFTER = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "migration.md").read_text(encoding="utf-8"), re.DOTALL
)


def test_both_programs_give_the_same_bits(tmp_path):
    names = {}
    exec(BEFORE, names)
    assert names["Module"].__module__ == "tensorrt_llm.module"
    subprocess.run(
        [sys.executable, "-c", f"{AFTER}\nnp.save('y.npy', y)\n"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRTLLM_EXT_BACKEND": "embedded"},
        cwd=tmp_path,
        check=True,
    )
    assert np.load(tmp_path / "y.npy").tobytes() == names["y"].tobytes()

"""What `trtllm-ext stream weights --estimate` says beside what the run then takes, of a scaled-down model.

    python benchmarks/virtual_weights.py

The model is Llama's with random weights, 8 layers of hidden size 1024, in float32 files; and with them what is said of
32 layers of hidden size 4096, whose weights are drawn as they are asked for and lie in no file. Each turn is a process
of its own.
"""

import json
import subprocess
import sys
import tempfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
from common import Spread, report
from safetensors.numpy import save_file

RUNS = 5
SMALL = {"hidden": 1024, "ffn": 2816, "layers": 8, "words": 8000}
LARGE = {"hidden": 4096, "ffn": 11008, "layers": 32, "words": 32000}


def shapes(hidden: int, ffn: int, layers: int, words: int) -> dict[str, tuple[int, ...]]:
    """Llama's weights by name."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (words, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (words, hidden),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        found |= {f"{prefix}.self_attn.{role}_proj.weight": (hidden, hidden) for role in "qkvo"}
        found |= {f"{prefix}.mlp.{role}_proj.weight": (ffn, hidden) for role in ("gate", "up")}
        found[f"{prefix}.mlp.down_proj.weight"] = (hidden, ffn)
        found |= {f"{prefix}.{place}_layernorm.weight": (hidden,) for place in ("input", "post_attention")}
    return found


def config(hidden: int, ffn: int, layers: int, words: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 128,
        "num_key_value_heads": hidden // 128,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "vocab_size": words,
        "tie_word_embeddings": False,
    }


def values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal(shape, dtype=np.float32)
    return drawn / np.float32(shape[-1] ** 0.5) if len(shape) > 1 else 1 + drawn / 10


def write_model(folder: Path, sizes: dict[str, int]) -> None:
    (folder / "config.json").write_text(json.dumps(config(**sizes)))
    weights = {name: values(shape, seed) for seed, (name, shape) in enumerate(shapes(**sizes).items())}
    save_file(weights, folder / "model.safetensors")


def step(what: str, folder: str) -> None:
    """One turn: the estimate, or the run; writes what it took."""
    from trtllm_ext.analysis.stream_map import read_stream_map
    from trtllm_ext.analysis.virtual_weights.cost import estimate
    from trtllm_ext.analysis.virtual_weights.virtual_weights import virtual_weights

    found = read_stream_map(folder)
    if what == "estimate":
        taken = asdict(estimate(found))
    else:
        result = virtual_weights(found)
        taken = {"seconds": result.seconds, "steps": float(result.steps[result.steps > 0].mean())}
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        taken["memory_bytes"] = int(status["VmHWM"].split()[0]) << 10
    sys.stdout.write(json.dumps(taken))


def large_estimate(folder: str) -> None:
    """Of the large model: a folder of the right names and a hole for each weight, so that zeros are read, with values
    drawn in their place.
    """
    from trtllm_ext.analysis.stream_map import read_stream_map, stored
    from trtllm_ext.analysis.virtual_weights import cost

    plain = stored._load

    def drawn(weights, pieces, shape):
        plain(weights, pieces, shape)  # what it takes to read them
        return values(shape, zlib.crc32(f"{pieces[0].name} {pieces[0].ranges}".encode()))

    stored._load = drawn
    found = read_stream_map(folder)
    sys.stdout.write(json.dumps(asdict(cost.estimate(found))))


def write_holes(folder: Path, sizes: dict[str, int]) -> None:
    """A safetensors file of the right size that takes no room: its data is never written."""
    header, end = {}, 0
    for name, shape in shapes(**sizes).items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    (folder / "config.json").write_text(json.dumps(config(**sizes)))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def turn(what: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, what, str(folder)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name) / "small", Path(name) / "large"
        for folder in (small, large):
            folder.mkdir()
        write_model(small, SMALL)
        turns = [(turn("estimate", small), turn("run", small)) for _ in range(RUNS)]
        write_holes(large, LARGE)
        told = turn("large", large)
    rows = [
        [
            "8 layers, hidden 1024",
            f"{Spread.of([before['seconds'] for before, _ in turns]):.1f}",
            f"{Spread.of([after['seconds'] for _, after in turns]):.1f}",
            f"{Spread.of([before['seconds'] / after['seconds'] for before, after in turns]):.2f}",
            f"{turns[0][0]['memory_bytes'] / 1e6:.0f}",
            f"{max(after['memory_bytes'] for _, after in turns) / 1e6:.0f}",
            f"{turns[0][0]['disk_bytes'] / 1e6:.0f}",
        ],
        [
            "32 layers, hidden 4096",
            f"{told['seconds']:.0f}",
            "",
            "",
            f"{told['memory_bytes'] / 1e6:.0f}",
            "",
            f"{told['disk_bytes'] / 1e6:.0f}",
        ],
    ]
    header = [
        "model",
        "told, s",
        "taken, s",
        "told / taken",
        "memory told, MB",
        "memory taken, MB",
        "disk, MB",
    ]
    raw = {"small": [{"told": before, "taken": after} for before, after in turns], "large": told}
    report("virtual_weights", header, rows, raw=raw)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        {"large": large_estimate}.get(sys.argv[1], lambda folder: step(sys.argv[1], folder))(sys.argv[2])
    else:
        main()

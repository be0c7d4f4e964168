"""One step of `convert.py` in a process of its own; prints one JSON object on its last line."""

import argparse
import json
import os
import re
import shutil
import time
from pathlib import Path

SHARD_BYTES = 500_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["source", "copy", "convert"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float)
    parser.add_argument("--form", choices=["safetensors", "bin"], default="safetensors")
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    print(json.dumps(globals()[arguments.step](arguments)))


def source(arguments: argparse.Namespace) -> dict:
    """A BERT of random weights in float32, in shards with their index."""
    config = bert_config()
    layer = bert_layer(config["hidden_size"], config["intermediate_size"])
    layer_bytes = 4 * sum(rows * columns for rows, columns in layer.values())
    config["num_hidden_layers"] = max(1, round(arguments.gigabytes * 1e9 / layer_bytes))
    shapes = bert_embeddings(config)
    for index in range(config["num_hidden_layers"]):
        shapes.update({f"encoder.layer.{index}.{name}": shape for name, shape in layer.items()})
    (arguments.folder / "config.json").write_text(json.dumps(config))
    write_shards(arguments.folder, shapes, arguments.form)
    return {"layers": config["num_hidden_layers"]}


def bert_config() -> dict:
    return {
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "num_attention_heads": 16,
        "type_vocab_size": 2,
        "vocab_size": 2000,
    }


def bert_embeddings(config: dict) -> dict[str, tuple[int, int]]:
    hidden = config["hidden_size"]
    sizes = {
        "word": config["vocab_size"],
        "position": config["max_position_embeddings"],
        "token_type": config["type_vocab_size"],
    }
    shapes = {f"embeddings.{name}_embeddings.weight": (size, hidden) for name, size in sizes.items()}
    return {**shapes, **{f"embeddings.LayerNorm.{leaf}": (1, hidden) for leaf in ("weight", "bias")}}


def bert_layer(hidden: int, ffn: int) -> dict[str, tuple[int, int]]:
    """Shapes of a layer's weights; those of vectors are (1, size) here."""
    sizes = {f"attention.self.{part}": (hidden, hidden) for part in ("query", "key", "value")}
    sizes["attention.output.dense"] = (hidden, hidden)
    sizes["intermediate.dense"], sizes["output.dense"] = (ffn, hidden), (hidden, ffn)
    shapes = {f"{name}.weight": size for name, size in sizes.items()}
    shapes.update({f"{name}.bias": (1, size[0]) for name, size in sizes.items()})
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        shapes.update({f"{name}.{leaf}": (1, hidden) for leaf in ("weight", "bias")})
    return shapes


def write_shards(folder: Path, shapes: dict[str, tuple[int, int]], form: str) -> None:
    shards: list[list[str]] = [[]]
    size = 0
    for name, (rows, columns) in shapes.items():
        size += 4 * rows * columns
        if shards[-1] and size > SHARD_BYTES:
            shards.append([])
            size = 4 * rows * columns
        shards[-1].append(name)
    stem, end = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")
    weight_map = {}
    for index, names in enumerate(shards):
        file = f"{stem}-{index + 1:05d}-of-{len(shards):05d}.{end}"
        weight_map.update(dict.fromkeys(names, file))
        save({name: random_values(name, shapes[name]) for name in names}, folder / file, form)
    (folder / f"{stem}.{end}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def random_values(name: str, shape: tuple[int, int]):
    import numpy as np

    from trtllm_ext.models.random import random_weight

    values = np.concatenate(list(random_weight(name, shape, "float32", seed=0)))
    return values.reshape(shape[1:] if shape[0] == 1 else shape)


def save(weights: dict, path: Path, form: str) -> None:
    if form == "safetensors":
        from safetensors.numpy import save_file

        save_file(weights, path)
    else:
        import torch

        torch.save({name: torch.from_numpy(values) for name, values in weights.items()}, path)


def copy(arguments: argparse.Namespace) -> dict:
    """Copies the weight files, and then has the copies written to the disk, as a conversion does with its result."""
    target = arguments.folder / "copy"
    target.mkdir()
    files = [path for path in arguments.folder.iterdir() if path.suffix in (".safetensors", ".bin")]
    begin = time.perf_counter()
    for path in files:
        shutil.copyfile(path, target / path.name)
    copied = time.perf_counter() - begin
    for path in target.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    synced = time.perf_counter() - begin
    size = sum(path.stat().st_size for path in files)
    shutil.rmtree(target)
    return {"seconds": copied, "synced_seconds": synced, "bytes": size}


def convert(arguments: argparse.Namespace) -> dict:
    import trtllm_ext.checkpoint

    if arguments.form == "bin":
        import torch  # noqa: F401  # its import is no part of a conversion
    os.sync()  # what the copies left to be written would slow the conversion down
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = status("VmRSS")
    begin = time.perf_counter()
    trtllm_ext.checkpoint.convert(arguments.folder, arguments.folder / "converted", dtype=arguments.dtype)
    seconds = time.perf_counter() - begin
    peak = status("VmHWM")
    shutil.rmtree(arguments.folder / "converted")
    return {"seconds": seconds, "idle_bytes": before, "peak_bytes": peak}


def status(field: str) -> int:
    """A figure of this process's memory; mapped file pages count in both VmRSS and VmHWM."""
    (size,) = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(size) * 1024


if __name__ == "__main__":
    main()

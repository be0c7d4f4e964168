"""Small checkpoints of several ranks, and what their builds are compared by."""

from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint

HIDDEN, FFN, LAYERS = 16, 96, 2


def stack_config(ranks, **settings):
    config = sublayer_stack_config(
        hidden_size=HIDDEN, ffn_hidden_size=FFN, num_hidden_layers=LAYERS, final_norm=True, **settings
    )
    return with_ranks(config, ranks)


def write_stack(path, ranks, **settings):
    write_random_checkpoint(path, stack_config(ranks, **settings))
    return path


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def engines(path):
    """The bytes of all engines of a directory, by name."""
    return {entry.name: entry.read_bytes() for entry in path.glob("*.engine")}


def damage(checkpoint, rank):
    """Change a byte of a weight, which its checksum then tells."""
    file = checkpoint / f"rank{rank}.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)

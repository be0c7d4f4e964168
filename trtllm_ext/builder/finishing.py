"""What makes the engines of all ranks one directory: its config, what goes with the model, and the known answer."""

import logging
from pathlib import Path

from trtllm_ext import backend
from trtllm_ext.builder.engine import EngineConfig, write_config
from trtllm_ext.builder.known_answer import write_known_answer
from trtllm_ext.builder.rank_build import Progress
from trtllm_ext.checkpoint.directory import COMPANIONS, copy_companions
from trtllm_ext.errors import BuildError
from trtllm_ext.runtime.atomic import write_errors

_log = logging.getLogger(__name__)


def finish_directory(
    staging: Path,
    output_dir: str,
    config: EngineConfig,
    checkpoint: Path,
    tell: Progress,
    *,
    is_stripped: bool,
) -> None:
    """Add to the engines and envelopes in `staging` what is there once for all ranks.

    output_dir: the directory's name in messages. is_stripped: whether the engines hold no weights, and cannot be tried.
    Raises BuildError when it cannot be written, or the ranks do not run together.
    """
    companions = [checkpoint / name for name in COMPANIONS if (checkpoint / name).is_file()]
    with write_errors(output_dir, BuildError):
        write_config(staging, config)
        copy_companions(companions, staging)
    if config.world_size == 1:
        return
    if is_stripped:
        _log.info("no known answer is stored: the engines hold no weights; `trtllm-ext refit` stores one")
    elif backend.choice().engine == "embedded":
        write_known_answer(staging, output_dir, config, tell)
    else:
        _log.info(
            "no known answer is stored: TensorRT's ranks need a device each, and were not tried together"
        )

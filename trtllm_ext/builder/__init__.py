"""From networks and checkpoints to engines: `Builder`, `BuildConfig`, `build`, `build_engine_dir`."""

from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.builder import Builder, BuilderConfig
from trtllm_ext.builder.building import build, build_engine_dir, check_build
from trtllm_ext.builder.engine import Engine, EngineConfig

__all__ = [
    "BuildConfig",
    "Builder",
    "BuilderConfig",
    "Engine",
    "EngineConfig",
    "build",
    "build_engine_dir",
    "check_build",
]

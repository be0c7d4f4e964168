"""From networks and checkpoints to engines: `Builder`, `BuildConfig`, `build`, `build_engine_dir`, `plan_build`."""

from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.builder import Builder, BuilderConfig
from trtllm_ext.builder.building import build, build_engine_dir
from trtllm_ext.builder.engine import Engine, EngineConfig
from trtllm_ext.builder.onnx_export import ExportedModel, export_network, export_onnx
from trtllm_ext.builder.plan import BuildPlan, RankPlan, plan_build
from trtllm_ext.builder.refit import refit_engine, refit_engine_dir
from trtllm_ext.builder.triton import TritonModel, export_triton

__all__ = [
    "BuildConfig",
    "BuildPlan",
    "Builder",
    "BuilderConfig",
    "Engine",
    "EngineConfig",
    "ExportedModel",
    "RankPlan",
    "TritonModel",
    "build",
    "build_engine_dir",
    "export_network",
    "export_onnx",
    "export_triton",
    "plan_build",
    "refit_engine",
    "refit_engine_dir",
]

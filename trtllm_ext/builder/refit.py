"""Other weights for engines that are built: `refit_engine` in memory, `refit_engine_dir` for a directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trtllm_ext import backend
from trtllm_ext.builder.engine import EngineConfig, new_build_id
from trtllm_ext.builder.engine_writer import EngineWriter
from trtllm_ext.builder.finishing import finish_directory
from trtllm_ext.builder.rank_build import Progress, model_of_rank, named, silent
from trtllm_ext.builder.rebuilding import for_this_process
from trtllm_ext.builder.same_model import check_same_model
from trtllm_ext.builder.trace import trace
from trtllm_ext.checkpoint import load_config
from trtllm_ext.errors import BuildError, CheckpointError, EngineError, TrtllmExtError
from trtllm_ext.graph.arrays import as_array
from trtllm_ext.graph.dtypes import np_dtype_to_trt
from trtllm_ext.graph.functional.constants import weights_of
from trtllm_ext.lowering.layer_view import LayerView
from trtllm_ext.runtime.atomic import replaced_directory, write_errors
from trtllm_ext.runtime.engine_dir import ENGINE_DIRECTORY, EngineDir
from trtllm_ext.runtime.envelope import engine_name, envelope_name
from trtllm_ext.runtime.json_files import canonical_digest
from trtllm_ext.runtime.loading import deserialized, new_runtime
from trtllm_ext.runtime.trt_log import recording_logger
from trtllm_ext.version import __version__

# Layer and role of a weight -> the weight, for those that are no parameters.
Constants = Callable[[str, Any], Any]


def refit_engine(
    engine: Any,
    parameters: Mapping[str, Any],
    *,
    constants: Constants | None = None,
    stays_refittable: bool = True,
) -> Any:
    """An engine with other weights; a `trt.IHostMemory`, the one given is left as it is.

    engine: bytes, mmap or what a build gave, built with use_refit or use_strip_plan. parameters: all weights by the
    names of the model's parameters, in the engine's types and sizes; those that it does not have are left out.
    constants(layer, role): weights of the network that are no parameters, which TensorRT 8 asks for where it has put
    them together with others. stays_refittable: whether the result can be refitted in its turn.
    Raises EngineError for an engine that cannot be refitted, CheckpointError for weights that are missing or refused.
    """
    trt = backend.tensorrt()
    logger = recording_logger(trt)
    runtime = new_runtime(trt, logger)
    loaded = deserialized(runtime, engine, logger, "the engine")
    if not loaded.refittable:
        raise EngineError(
            "the engine's weights cannot be exchanged: it was built without use_refit and use_strip_plan, or was "
            "stripped once and is filled now. Build it again with use_refit."
        )
    refitter = trt.Refitter(loaded, logger.given)
    kept = list(_give_parameters(trt, refitter, parameters, logger))
    kept += _give_constants(refitter, constants, logger)
    mark = logger.mark()
    if not refitter.refit_cuda_engine():
        raise EngineError(f"TensorRT does not exchange the weights: {logger.errors_since(mark)}")
    serialized = _serialized(trt, loaded, stays_refittable)
    del kept, refitter, loaded, runtime
    if serialized is None:
        raise EngineError(f"the refitted engine cannot be written: {logger.errors_since(mark)}")
    return serialized


def refit_engine_dir(
    engine_dir: str | os.PathLike[str],
    checkpoint_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    allow_nan: bool = False,
    progress: Progress | None = None,
) -> None:
    """The engines of a directory with the weights of a checkpoint, as an engine directory that appears whole or not.

    The engines were built with use_refit or use_strip_plan, from a checkpoint of the same config. What comes out can be
    refitted in its turn if use_refit was set. output_dir may be engine_dir.
    Raises EngineError, CheckpointError, ConfigError, and BuildError for what `build_engine_dir` raises it for.
    """
    tell, checkpoint = progress or silent, Path(checkpoint_dir)
    if Path(output_dir).resolve() == checkpoint.resolve():
        raise BuildError(f"output_dir {output_dir} is the checkpoint itself; give another directory.")
    source = EngineDir.read(engine_dir)
    old = EngineConfig.from_dict(source.config)
    check_same_model(
        old.pretrained_config,
        load_config(checkpoint),
        engine=engine_dir,
        checkpoint=checkpoint_dir,
        way_out="Give a checkpoint of the same config, or build anew.",
        may_differ=("source",),
    )
    config = replace(old, build_id=new_build_id(), version=__version__)
    with replaced_directory(output_dir, ENGINE_DIRECTORY) as staging:
        for rank in range(config.world_size):
            try:
                _refit_rank(
                    EngineDir.read(engine_dir, rank), config, checkpoint, staging, output_dir, allow_nan, tell
                )
            except TrtllmExtError as problem:
                raise problem if config.world_size == 1 else named(rank, problem) from problem
        finish_directory(staging, os.fspath(output_dir), config, checkpoint, tell, is_stripped=False)


def _refit_rank(
    source: EngineDir,
    config: EngineConfig,
    checkpoint: Path,
    staging: Path,
    output_dir: str | os.PathLike[str],
    allow_nan: bool,
    tell: Progress,
) -> None:
    rank = source.rank
    source.check_host()
    tell(f"rank {rank}: reading the checkpoint", 0)
    model = model_of_rank(checkpoint, rank, config.build_config, allow_nan)
    parameters = {name: each.raw_value for name, each in model.named_parameters() if each.is_inited()}
    step = f"rank {rank}: exchanging weights"
    tell(step, 0)
    engine = refit_engine(
        source.map_engine(),
        parameters,
        constants=_Constants(model, config),
        stays_refittable=config.build_config.use_refit,
    )
    with EngineWriter(staging / engine_name(rank), output_dir, partial(tell, step)) as writer:
        writer.write(memoryview(engine))
        if writer.problem is not None:
            raise writer.problem
        with write_errors(output_dir, BuildError):
            replace(
                source.envelope,
                build_id=config.build_id,
                config_sha256=canonical_digest(config.as_stored()),
                engine_bytes=writer.num_bytes,
                engine_crc32=writer.crc32,
                engine_ends_sha256=writer.ends_sha256(),
                built_by=f"trtllm_ext {__version__}",
                is_stripped=False,
            ).write(staging / envelope_name(rank))


class _Constants:
    """Weights of a model's network by layer and role; the network is written down when the first is asked for."""

    def __init__(self, model: Any, config: EngineConfig) -> None:
        self._model, self._config = model, config
        self._network: Any = None
        self._layers: dict[str, Any] = {}

    def __call__(self, layer: str, role: Any) -> Any:
        if self._network is None:
            self._network = trace(self._model, for_this_process(self._config.build_config)).network
            self._layers = {each.name: each for each in self._network.get_layers()}
        if layer not in self._layers:
            return None
        api = LayerView(self._layers[layer], backend.tensorrt()).api
        return getattr(api, "weights" if role.name == "CONSTANT" else role.name.lower(), None)


def _give_parameters(trt: Any, refitter: Any, parameters: Mapping[str, Any], logger: Any) -> Iterator[Any]:
    """Give the refitter the weights that have names; yields what must live until they are exchanged."""
    # TensorRT 8.6 lists weights that nobody named, too, by their layer and role.
    unnamed = {f"{layer} {role.name}" for layer, role in zip(*refitter.get_all(), strict=True)}
    names = [name for name in refitter.get_all_weights() if name and name not in unnamed]
    absent = [name for name in names if name not in parameters]
    if absent:
        raise CheckpointError(
            f"the engine asks for {len(absent)} weights that are not among those given: {', '.join(absent[:5])}."
        )
    for name in names:
        array = as_array(parameters[name])
        weights = weights_of(trt, np_dtype_to_trt(array.dtype), array)
        mark = logger.mark()
        if not refitter.set_named_weights(name, weights):
            raise CheckpointError(f"the engine refuses the weights {name!r}: {logger.errors_since(mark)}")
        yield array, weights


def _give_constants(refitter: Any, constants: Constants | None, logger: Any) -> Iterable[Any]:
    given = []
    for layer, role in zip(*refitter.get_missing(), strict=True):
        weights = None if constants is None else constants(layer, role)
        mark = logger.mark()
        if weights is None or not refitter.set_weights(layer, role, weights):
            said = logger.errors_since(mark) or "nobody gives it"
            raise EngineError(
                f"the engine cannot do without the weight {role.name} of its layer {layer!r}: {said}. Build it again, "
                f"with the version of trtllm_ext that refits it."
            )
        given.append(weights)
    return given


def _serialized(trt: Any, engine: Any, stays_refittable: bool) -> Any:
    if not hasattr(engine, "create_serialization_config"):
        return engine.serialize()
    config = engine.create_serialization_config()
    flags = trt.SerializationFlag.__members__
    if "EXCLUDE_WEIGHTS" in flags:
        config.clear_flag(flags["EXCLUDE_WEIGHTS"])
    if stays_refittable and "INCLUDE_REFIT" in flags:
        config.set_flag(flags["INCLUDE_REFIT"])
    return engine.serialize_with_config(config)

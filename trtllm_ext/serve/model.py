"""A runner as one of mlserver's models, and what clients are told of it."""

from typing import Any

from mlserver import MLModel, ModelSettings
from mlserver.settings import ModelParameters
from mlserver.types import (
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
)

from trtllm_ext.serve.batcher import Batcher
from trtllm_ext.serve.joining import Arrays
from trtllm_ext.serve.runner import TensorSpec
from trtllm_ext.serve.settings import MODEL_VERSION


class EngineModel(MLModel):
    """Has a batcher's runner answer."""

    def __init__(self, settings: ModelSettings, batcher: Batcher) -> None:
        super().__init__(settings)
        self._batcher = batcher
        self.runner = batcher.runner
        self.input_specs = {spec.name: spec for spec in self.runner.inputs}
        self.output_specs = {spec.name: spec for spec in self.runner.outputs}

    async def load(self) -> bool:
        self._batcher.start()
        return True

    async def run(self, arrays: Arrays) -> Arrays:
        """The runner's outputs for one request's inputs. Raises InputError and RefusalError."""
        return await self._batcher.submit(arrays)

    async def metadata(self) -> MetadataModelResponse:
        return MetadataModelResponse.model_construct(
            name=self.name,
            versions=[MODEL_VERSION],
            platform="trtllm_ext",
            inputs=[_metadata(spec) for spec in self.runner.inputs],
            outputs=[_metadata(spec) for spec in self.runner.outputs],
            parameters=Parameters(**self.runner.description),
        )


def model_settings(name: str) -> ModelSettings:
    """What mlserver is told of the one model."""
    return ModelSettings(
        name=name,
        implementation=EngineModel,
        parameters=ModelParameters(version=MODEL_VERSION, uri=None, extra={}),
        platform="trtllm_ext",
        max_batch_size=0,
        max_batch_time=0.0,
        cache_enabled=False,
    )


def metadata_json(metadata: MetadataModelResponse) -> dict[str, Any]:
    """A model's metadata for JSON."""
    told = metadata.model_dump(warnings=False)
    return {key: told[key] for key in ("name", "versions", "platform", "inputs", "outputs", "parameters")}


def _metadata(spec: TensorSpec) -> MetadataTensor:
    # mlserver's own list of datatypes lacks BF16, so that this is not validated.
    return MetadataTensor.model_construct(name=spec.name, datatype=spec.datatype, shape=list(spec.shape))

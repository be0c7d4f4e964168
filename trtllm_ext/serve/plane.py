"""What both protocols ask: mlserver's data plane for one model, and what its errors are called."""

import logging
import time

from mlserver import Settings
from mlserver.errors import MLServerError, ModelNotFound
from mlserver.handlers import DataPlane
from mlserver.registry import MultiModelRegistry

from trtllm_ext.errors import InputError
from trtllm_ext.serve.joining import Arrays
from trtllm_ext.serve.metrics import Metrics
from trtllm_ext.serve.model import EngineModel
from trtllm_ext.serve.refused import Reason, RefusalError
from trtllm_ext.serve.settings import MODEL_VERSION

logger = logging.getLogger(__name__)


class ServingPlane(DataPlane):
    """mlserver's data plane, which also says when the server is about to leave.

    is_leaving: the server is not ready any more, and answers what it still gets.
    """

    def __init__(
        self, settings: Settings, model_registry: MultiModelRegistry, metrics: Metrics, model_name: str
    ) -> None:
        super().__init__(settings, model_registry)
        self._metrics = metrics
        of_model = {"model": model_name, "version": MODEL_VERSION}
        self._succeeded = self._ModelInferRequestSuccess.labels(**of_model)
        self._failed = self._ModelInferRequestFailure.labels(**of_model)
        self._durations = self._ModelInferRequestDuration.labels(**of_model)
        self.is_leaving = False

    async def ready(self) -> bool:
        return not self.is_leaving and await super().ready()

    async def model_ready(self, name: str, version: str | None = None) -> bool:
        model = await self.model(name, version)
        return not self.is_leaving and model.ready

    async def model(self, name: str, version: str | None = None) -> EngineModel:
        """The model of this name and version. Raises RefusalError where there is none."""
        try:
            return await self._model_registry.get_model(name, version)
        except ModelNotFound:
            served = ", ".join(model.name for model in await self._model_registry.get_models())
            told = f"model {name[:80]!r}" + (f" version {version[:20]!r}" if version else "")
            raise RefusalError(
                Reason.NOT_FOUND, f"{told} is not here; this server has {served}, version {MODEL_VERSION}."
            ) from None

    async def run(self, model: EngineModel, arrays: Arrays) -> Arrays:
        """The model's outputs, counted as mlserver's `infer` counts them. Raises InputError and RefusalError.

        The rest of that one (ids, middlewares, a cache: nothing that this server has) takes as long as all else that
        is done for a request here.
        """
        begin = time.perf_counter()
        try:
            outputs = await model.run(arrays)
        except Exception:
            self._failed.inc()
            raise
        finally:
            self._durations.observe(time.perf_counter() - begin)
        self._succeeded.inc()
        return outputs

    def told(self, problem: Exception) -> RefusalError:
        """What a client learns of any error, counted."""
        if isinstance(problem, RefusalError):
            refusal = problem
        elif isinstance(problem, InputError):
            refusal = RefusalError(Reason.INPUT, str(problem))
        elif isinstance(problem, MLServerError):
            refusal = RefusalError(
                Reason.NOT_FOUND if problem.status_code == 404 else Reason.INPUT, str(problem)
            )
        else:
            logger.error("a request met an error that was not expected", exc_info=problem)
            refusal = RefusalError(
                Reason.ENGINE, "the server met an error that it did not expect; its log says more."
            )
        self._metrics.refused(refusal.reason)
        return refusal

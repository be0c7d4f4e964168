"""The part of ICudaEngine that writes the engine again."""

from trtllm_ext.embedded.enums import EngineStat, SerializationFlag
from trtllm_ext.embedded.host_memory import IHostMemory, host_memory_of, temporary_file
from trtllm_ext.embedded.plan import STRIPPED, Header
from trtllm_ext.embedded.plan.rewriting import is_stripped, rewrite_plan
from trtllm_ext.embedded.running.loading import LoadedPlan
from trtllm_ext.embedded.running.settings import ISerializationConfig
from trtllm_ext.embedded.surface.recorded import Recorded
from trtllm_ext.errors import BuildError


class Serializing(Recorded):
    """Serialization of an engine, with the weights that it has now."""

    __slots__ = ()
    _header: Header
    _loaded: LoadedPlan | None

    def serialize(self) -> IHostMemory | None:
        """The plan again: byte for byte, unless weights were exchanged. None, with an error in the log, if it fails."""
        return self._serialize("serialize", ISerializationConfig())

    def create_serialization_config(self) -> ISerializationConfig:
        """A config without flags."""
        return ISerializationConfig()

    def serialize_with_config(self, config: ISerializationConfig, /) -> IHostMemory | None:
        """The plan with the weights of now, or with EXCLUDE_WEIGHTS without those that can be exchanged.

        A plan that was stripped of its weights and is written with them is not refittable any more, unless
        INCLUDE_REFIT is set. None, with an error in the log, if it cannot be written.
        """
        return self._serialize("serialize_with_config", config)

    def get_engine_stat(self, stat: EngineStat = EngineStat.TOTAL_WEIGHTS_SIZE) -> int:
        """Bytes of all weights outside of the models, or of those that this plan was stripped of; -1 if unknown."""
        tables = [weight for segment in self._header.segments for weight in segment.weights]
        stripped = sum(weight.nbytes for weight in tables if weight.block == STRIPPED)
        if stat == EngineStat.TOTAL_WEIGHTS_SIZE:
            return stripped + sum(weight.nbytes for weight in self._header.weights)
        return stripped if stat == EngineStat.STRIPPED_WEIGHTS_SIZE else -1

    def _serialize(self, method: str, config: ISerializationConfig) -> IHostMemory | None:
        loaded, strip = self._loaded, config.get_flag(SerializationFlag.EXCLUDE_WEIGHTS)
        if loaded is None:
            return self._fail(method, "the engine was deleted.")
        if strip and not self._header.refit:
            return self._fail(
                method, "EXCLUDE_WEIGHTS needs an engine built with a refit flag; this one was not."
            )
        if not strip and loaded.segments.missing:
            return self._fail(method, "the engine lacks weights; refit it first, or set EXCLUDE_WEIGHTS.")
        keeps = strip or not is_stripped(self._header) or config.get_flag(SerializationFlag.INCLUDE_REFIT)
        try:
            with temporary_file() as file:
                if strip or loaded.segments.are_exchanged:
                    rewrite_plan(
                        file.write, loaded.plan, loaded.segments.current, strip=strip, stays_refittable=keeps
                    )
                else:
                    file.write(loaded.plan.buffer)
                return host_memory_of(file)
        except (OSError, BuildError) as error:
            return self._fail(method, f"the temporary file cannot be written: {error}")

    def _fail(self, method: str, reason: str) -> IHostMemory | None:
        self._report(f"{method}: {reason}")
        return None

"""Names of nodes and values."""

from collections.abc import Iterable


class Names:
    """Names, each given once. Emitters whose segments exchange values share one."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._counts: dict[str, int] = {}

    def reserve(self, name: str) -> None:
        """Keep `name` for whoever knows it."""
        self._taken.add(name)

    def unique(self, wanted: str) -> str:
        """`wanted`, or the first `wanted_N` that is free; to ONNX the empty name is none."""
        name = wanted = wanted or "unnamed"
        while name in self._taken:
            count = self._counts.get(wanted, 0) + 1
            self._counts[wanted] = count
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

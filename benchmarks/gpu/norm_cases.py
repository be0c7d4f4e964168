"""residual + norm: our kernel beside torch eager, torch.compile and a copy; alone over rotated data, and in a chain."""

from collections.abc import Callable

import torch
from cases import Case, Ready, Setting
from timing import number_of_sets, relative_error
from torch import Tensor

HIDDEN = 4096
EPS = 1e-5
# As many bytes read and written as by residual + norm, with nothing done to them: what the memory allows.
COPY = "copy of as much"


def cases(setting: Setting) -> list[Case]:
    """RMSNorm at all token counts, LayerNorm with everything at three; chains of dependent calls at few tokens."""
    tokens, hidden = ((3, 5), 32) if setting.tiny else ((32, 256, 2048, 8192, 16384), HIDDEN)
    found = [
        _stand_alone(setting, num_tokens, hidden, "rms_norm") for num_tokens in (tokens[-1], *tokens[:-1])
    ]
    found += [
        _stand_alone(setting, num_tokens, hidden, "layer_norm") for num_tokens in (tokens[-1], tokens[0])
    ]
    chained = [_chain(setting, num_tokens, hidden) for num_tokens in tokens[:2]]
    return [*chained, *found]


def _formula(norm: str, parts: dict[str, Tensor]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """As a model in torch has it: the stream's type, with the norm in float32."""

    def residual_norm(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        if norm == "layer_norm":
            total = x + parts["bias"] + residual
            shape = (total.shape[-1],)
            return total, torch.nn.functional.layer_norm(
                total, shape, parts["weight"], parts["norm_bias"], EPS
            )
        total = x + residual
        return total, torch.nn.functional.rms_norm(total, (total.shape[-1],), parts["weight"], EPS)

    return residual_norm


def _parts(setting: Setting, norm: str, hidden: int) -> dict[str, Tensor]:
    names = ("bias", "weight", "norm_bias") if norm == "layer_norm" else ("weight",)
    return {name: setting.random(hidden) for name in names}


def _wanted(norm: str, parts: dict[str, Tensor], total: Tensor) -> Tensor:
    value = total.double()
    if norm == "layer_norm":
        value = value - value.mean(-1, keepdim=True)
    value = value / torch.sqrt((value * value).mean(-1, keepdim=True) + EPS) * parts["weight"].double()
    return value + parts["norm_bias"].double() if "norm_bias" in parts else value


def _stand_alone(setting: Setting, num_tokens: int, hidden: int, norm: str) -> Case:
    def begin() -> Ready:
        sets = 2 if setting.tiny else number_of_sets(8 * num_tokens * hidden)
        parts = _parts(setting, norm, hidden)
        data = [(setting.random(num_tokens, hidden), setting.random(num_tokens, hidden)) for _ in range(sets)]
        results = [tuple(torch.empty_like(x) for _ in range(2)) for x, _ in data]
        eager = _formula(norm, parts)
        compiled = setting.compile(eager)

        def ours(number: int) -> None:
            (x, residual), (total, normed) = data[number], results[number]
            given = parts | {"residual": residual, "sum": total, "normed": normed}
            setting.kernels.residual_norm(x, **given, norm=norm, eps=EPS, stream=setting.stream())

        def copy(number: int) -> None:
            for source, target in zip(data[number], results[number], strict=True):
                target.copy_(source)

        def error(name: str) -> float:
            """Of the first data set, sum and normed; ours has written them, others return them."""
            given = calls[name](0)
            if name == COPY:
                return max(relative_error(*each) for each in zip(results[0], data[0], strict=True))
            total, normed = results[0] if name == "ours" else given
            exact = sum(each.double() for each in (*data[0], *([parts["bias"]] if "bias" in parts else [])))
            return max(relative_error(total, exact), relative_error(normed, _wanted(norm, parts, total)))

        calls: dict[str, Callable[[int], object]] = {
            "ours": ours,
            "torch eager": lambda number: eager(*data[number]),
            "torch.compile": lambda number: compiled(*data[number]),
            COPY: copy,
        }
        return Ready(calls, sets, error)

    return Case(
        name=f"{norm}, T={num_tokens}",
        table="residual + norm",
        begin=begin,
        moved_bytes=4 * num_tokens * hidden * setting.dtype.itemsize,
    )


def _chain(setting: Setting, num_tokens: int, hidden: int) -> Case:
    """Each call adds the last one's normed rows to its stream: what a call costs among others, a graph node."""
    length = 4 if setting.tiny else 64

    def begin() -> Ready:
        parts = _parts(setting, "rms_norm", hidden)
        first = setting.random(num_tokens, hidden), setting.random(num_tokens, hidden)
        streams = [tuple(torch.empty_like(first[0]) for _ in range(2)) for _ in range(length)]
        eager = _formula("rms_norm", parts)
        compiled = setting.compile(eager)
        state: dict[str, tuple[Tensor, Tensor]] = {}

        def ours(number: int) -> None:
            total, x = streams[number - 1] if number else first
            given = parts | {"residual": total, "sum": streams[number][0], "normed": streams[number][1]}
            setting.kernels.residual_norm(x, **given, norm="rms_norm", eps=EPS, stream=setting.stream())

        def overlapped(number: int) -> None:
            setting.kernels.set_dependent_launch(True)
            try:
                ours(number)
            finally:
                setting.kernels.set_dependent_launch(False)

        def chained(name: str, formula: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[int], None]:
            def call(number: int) -> None:
                total, x = state[name] if number else first
                state[name] = formula(x, total)

            return call

        def error(name: str) -> float:
            """Of the second call of the chain."""
            for number in (0, 1):
                calls[name](number)
            total, normed = streams[1] if name.startswith("ours") else state[name]
            return relative_error(normed, _wanted("rms_norm", parts, total))

        calls: dict[str, Callable[[int], object]] = {
            "ours": ours,
            "ours, dependent launch": overlapped,
            "torch eager": chained("torch eager", eager),
            "torch.compile": chained("torch.compile", compiled),
        }
        return Ready(calls, length, error)

    return Case(name=f"rms_norm in a chain of {length}, T={num_tokens}", table="residual + norm", begin=begin)

"""The weights of hyper-connections: names, shapes and first values, one list for layers and checkpoints.

n is num_streams, d hidden_size. Matrices are (out_features, in_features). The formulas are in
`layers.HyperConnections`.

| kind     | weight                               | shape        | in the paper                                |
| -------- | ------------------------------------ | ------------ | ------------------------------------------- |
| static   | static_beta                          | (n)          | B                                           |
|          | static_alpha                         | (n, n + 1)   | (A_m A_r): column 0 is A_m                  |
| dynamic  | those of static, and                 |              |                                             |
|          | dynamic_beta                         | (1, d)       | W_beta, transposed                          |
|          | dynamic_alpha                        | (n + 1, d)   | (W_m W_r), transposed                       |
|          | beta_scale, alpha_scale              | (1)          | s_beta, s_alpha                             |
|          | norm_weight, norm_bias               | (d)          | of norm(H); no bias with norm='rms_norm'    |
| manifold | pre_weight, post_weight              | (n, n d)     | phi_pre, phi_post, transposed               |
|          | mixing_weight                        | (n n, n d)   | phi_res, transposed; n n in row-major order |
|          | pre_bias, post_bias                  | (n)          | b_pre, b_post                               |
|          | mixing_bias                          | (n, n)       | b_res                                       |
|          | pre_scale, post_scale, mixing_scale  | (1)          | alpha_pre, alpha_post, alpha_res            |

The manifold form's norm has no weight of its own: diag(weight) is a factor of each phi, and its paper too keeps their
product.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trtllm_ext.errors import ConfigError
from trtllm_ext.suggest import nearest

Shape = tuple[int, ...]

KINDS = ("static", "dynamic", "manifold")
NORMS = ("layer_norm", "rms_norm")

# Far enough out that float32's sigmoid is 1 there, and its exp beside exp(0) leaves nothing.
_SATURATED = 30.0


def weight_shapes(
    kind: str, num_streams: int, hidden_size: int, *, norm: str = "layer_norm"
) -> dict[str, Shape]:
    """Name -> shape of every weight of a HyperConnections layer.

    norm: of the dynamic form. Raises ConfigError for an unknown kind or norm.
    """
    for field, value, known in (("kind", kind, KINDS), ("norm", norm, NORMS)):
        if value not in known:
            raise ConfigError(
                f"hyper-connections of {field}={value!r} are not known. {nearest(value, known)}"
            )
    n, d = num_streams, hidden_size
    if kind == "manifold":
        return _manifold_shapes(n, d)
    shapes: dict[str, Shape] = {"static_beta": (n,), "static_alpha": (n, n + 1)}
    if kind == "dynamic":
        shapes |= {
            "dynamic_beta": (1, d),
            "dynamic_alpha": (n + 1, d),
            "beta_scale": (1,),
            "alpha_scale": (1,),
        }
        shapes |= {"norm_weight": (d,)}
        if norm == "layer_norm":
            shapes |= {"norm_bias": (d,)}
    return shapes


def _manifold_shapes(n: int, d: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for name, out, bias in (("pre", n, (n,)), ("post", n, (n,)), ("mixing", n * n, (n, n))):
        shapes |= {f"{name}_weight": (out, n * d), f"{name}_bias": bias, f"{name}_scale": (1,)}
    return shapes


def initial_weights(
    kind: str, num_streams: int, hidden_size: int, index: int = 0, *, norm: str = "layer_norm"
) -> dict[str, npt.NDArray[np.float32]]:
    """First values, name -> float32 array, with which every stream goes on as it would with a plain residual.

    index: the sublayer's place among all; stream index mod num_streams is the one that static and dynamic forms read
        (Zhu et al. 2024, section 2.4).
    Both papers start the scales at 0.01. The manifold form's does not give its biases: here the streams' average is
    read, and each is added to and kept as it is.
    """
    n = num_streams
    values: dict[str, npt.NDArray[np.float32]] = {
        name: np.full(shape, 0.01 if name.endswith("_scale") else 0.0, np.float32)
        for name, shape in weight_shapes(kind, num_streams, hidden_size, norm=norm).items()
    }
    if kind == "manifold":
        values["pre_bias"][:] = -math.log(n - 1) if n > 1 else _SATURATED
        values["mixing_bias"][:] = _SATURATED * np.eye(n)
        return values
    values["static_beta"][:] = 1.0
    values["static_alpha"][index % n, 0] = 1.0
    values["static_alpha"][:, 1:] = np.eye(n)
    if kind == "dynamic":
        values["norm_weight"][:] = 1.0
    return values

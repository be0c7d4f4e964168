"""What a verification's numbers mean, in sentences."""

from __future__ import annotations

from trtllm_ext import backend
from trtllm_ext.verify.between import below_root
from trtllm_ext.verify.report import Bisection, NetworkFault, Report, Row


def findings_of(report: Report) -> tuple[str, ...]:
    """Which part is wrong and where, or that nothing is: one finding each, of a sentence or some."""
    found = []
    first = report.first_wrong
    if first is None and report.network is None and all(row.is_right for row in report.rows):
        count = len(report.rows)
        exposed = f"All {count} tensors" if count > 1 else "The one tensor"
        found.append(f"{exposed} that the engine exposes {'are' if count > 1 else 'is'} within tolerance.")
    if report.network is not None:
        found.append(_about_network(report.network))
    if first is not None:
        found.append(_about_engine(first, report))
    if report.weights_that_differ:
        names = report.weights_that_differ
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        found.append(
            f"The engine holds other weights than the checkpoint: {', '.join(names[:4])}{more}. It was not built from "
            f"this checkpoint as it is now; build it again."
        )
    if report.bisection is not None:
        found += _about_bisection(report.bisection, first, report)
    return tuple(found)


def _about_network(fault: NetworkFault) -> str:
    told = (
        f"The network is wrong at {fault.sublayer}: computed in float64, its "
        f"{fault.tensor.removeprefix(fault.sublayer + '.')} is {fault.error:.1e} off what the contract's formulas give "
        f"on these weights ({fault.tolerance:.0e} allowed). The code that defines this sublayer does not compute what "
        f"the checkpoint says."
    )
    return f"{told} {fault.hint}".rstrip()


def _about_engine(first: Row, report: Report) -> str:
    where = f"The first tensor that leaves its tolerance is {_place(first)}"
    if first.not_finite:
        return f"{where}: it holds {first.not_finite}."
    told = f"{where}: {first.alone:.1e} off, {first.tolerance:.0e} allowed."
    oracle, formulas = (
        None if each is None else each > first.tolerance
        for each in (first.oracle_alone, first.formulas_alone)
    )
    if formulas and oracle is False:
        return f"{told} The engine computes what its network says, and the formulas say something else."
    if oracle and formulas is False:
        return (
            f"{told} The engine agrees with the formulas, and not with the network that this version defines: it was "
            f"built by other code."
        )
    if report.bisection is not None or report.weights_that_differ:
        return told
    agreed = f"{told} Oracle and formulas agree with each other, and not with the engine"
    if report.weights == "unknown":
        return (
            f"{agreed}: it was built from other weights or by other code, or the library computes it wrongly. "
            f"--bisect tells whether it is the library."
        )
    whose = (
        "the checkpoint's weights" if report.weights == "same" else "the weights that they are computed from"
    )
    return (
        f"{agreed}, which holds {whose}: it was built by other code, or the library computes it wrongly. --bisect "
        f"tells which."
    )


def _place(row: Row) -> str:
    """A tensor's name, and its module's where the name does not begin with it."""
    return row.tensor if row.tensor.startswith(f"{row.culprit}.") else f"{row.tensor}, of {row.culprit}"


def _about_bisection(found: Bisection, first: Row | None, report: Report) -> list[str]:
    changed = (
        "Tapping changed nothing: the tapped engine's outputs are the given one's, bit for bit."
        if found.same_bits
        else f"The engine built anew with taps gives other outputs than the given one, by {found.changed_by:.1e} of "
        f"the largest number."
    )
    wrong = next((row for row in found.rows if not row.is_right), None)
    told = _about_right_taps(found, first, report) if wrong is None else _about_layers(wrong, found, report)
    return [f"{changed} {told}".rstrip()]


def _about_layers(wrong: Row, found: Bisection, report: Report) -> str:
    """wrong: the first wrong tensor of the engine built anew with taps."""
    library = "TensorRT" if backend.choice().engine == "tensorrt" else "the embedded engine"
    off = wrong.not_finite or f"{wrong.alone:.1e} off"
    where = f"Built anew with taps, the first wrong sublayer is {wrong.culprit} (at {wrong.tensor}: {off})."
    if found.failure:
        return f"{where} Its layers could not be looked at one by one: {found.failure}"
    if found.layer is not None:
        row = next(each for each in found.layers if each.layer == found.layer and not each.is_right)
        off = row.not_finite or f"{row.alone:.1e} off what it should give for its own inputs"
        return (
            f"{where} The first wrong layer in it is {below_root(row.layer)} ({row.kind}): {off}, so "
            f"{library} is at fault."
        )
    if report.network is not None and wrong.is_as_networks:
        return (
            f"{where} Each of its {len({each.layer for each in found.layers})} layers gives what it should for its own "
            f"inputs, so no layer can be named: they are the wrong ones, or wrongly joined, by the code that defines "
            f"the sublayer, and {library} is not at fault."
        )
    return (
        f"{where} With every tensor inside it as an output no single layer is wrong: what goes wrong is how {library} "
        f"joins layers, or roundings between them."
    )


def _about_right_taps(found: Bisection, first: Row | None, report: Report) -> str:
    if first is None:
        if report.network is not None:
            return (
                f"Within the roundings of {report.dtype} each step is right beside the wrong network, so no layer of "
                f"the engine can be named."
            )
        if found.same_bits:
            return "Each step by itself is right."
        if report.weights_that_differ:
            return "Both are within their tolerances."
        return "Both are within their tolerances; other code that differs by less is not told from roundings."
    if found.untapped_is_right:
        return _about_another_build(found, first, report)
    return (
        "Built anew without taps the engine is wrong again, with them it is right: what goes wrong is how the library "
        "joins layers across sublayers, and taps keep it from that; or roundings that add up to more than is allowed."
    )


def _about_another_build(found: Bisection, first: Row, report: Report) -> str:
    """Of an engine whose like, built anew, is right with taps and without."""
    told = "Built anew from this checkpoint the engine is right, with taps and without: "
    if report.weights_that_differ:
        return f"{told}the library is not at fault."
    told += "the given one was not built from this checkpoint by this code, and the library is not at fault."
    if report.weights == "unknown":
        told += " Whether its weights or its code were others cannot be told, since it does not give its weights back."
    else:
        told += (
            " It holds the same weights, so it was built by other code, or by another version of the library."
        )
        if found.differs_at:
            return (
                f"{told} The first layer that it computes in another way is {below_root(found.differs_at)}."
            )
    if first.point in ("before", "contribution", "after"):
        return told
    return f"{told} Which sublayer differs is seen in an engine that was built with taps only."

"""Hadamard matrices of many orders, made and not stored: Sylvester's doubling and Paley's two constructions.

A Hadamard matrix has entries 1 and -1 and orthogonal rows: H H^T = n I. Its order n is 1, 2 or a multiple of 4.
Sylvester 1867: powers of two, by Kronecker products of [[1, 1], [1, -1]]. Paley 1933, with the quadratic character of
the field of q elements: order q + 1 where q = 3 (mod 4), and 2 (q + 1) where q = 1 (mod 4). Kronecker products of the
two give most widths that models have: 768 = 64 x 12, 5120 = 256 x 20, 3584 = 128 x 28, 11008 = 32 x 344 (q = 7^3).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

# Fields of p^3 elements are the largest that are made: a polynomial of degree 3 is irreducible when it has no root.
_LARGEST_DEGREE = 3


@dataclass(frozen=True)
class HadamardOrder:
    """size = sylvester * paley * rest: a Hadamard matrix of order sylvester * paley, and what is left of the size."""

    sylvester: int
    paley: int
    rest: int

    @property
    def order(self) -> int:
        return self.sylvester * self.paley


def hadamard_order(size: int) -> HadamardOrder:
    """The largest order of a Hadamard matrix known here that divides `size`; of several ways the smallest Paley one."""
    best = HadamardOrder(size & -size, 1, _odd(size))
    for order in range(12, size + 1, 4):
        left, remainder = divmod(size, order)
        if not remainder and _odd(order) > 1 and paley_field(order) is not None:
            found = HadamardOrder(left & -left, order, _odd(left))
            best = max(best, found, key=lambda each: (each.order, -each.paley))
    return best


def hadamard(size: int) -> npt.NDArray[np.float64]:
    """A Hadamard matrix of that order, entries 1 and -1, whose first column is 1.

    Raises ValueError for an order that has none, or none that is known here: `hadamard_order(size).rest` is above 1.
    """
    parts = hadamard_order(size)
    if parts.rest != 1:
        raise ValueError(f"no Hadamard matrix of order {size} is known here.")
    matrix: npt.NDArray[Any] = sylvester(parts.sylvester)
    if parts.paley > 1:
        matrix = np.kron(matrix, paley(parts.paley))
    matrix *= matrix[:, :1].copy()
    return matrix


def sylvester(order: int) -> npt.NDArray[np.float64]:
    """Of a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.kron(np.array([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix


def paley_field(order: int) -> tuple[int, int] | None:
    """(q, construction) of Paley's matrix of an order, the field's size and which of the two; None without one."""
    for q, remainder, construction in ((order - 1, 3, 1), (order // 2 - 1, 1, 2)):
        if q % 4 == remainder and _prime_power(q) is not None:
            return q, construction
    return None


def paley(order: int) -> npt.NDArray[np.float64]:
    """Paley's matrix of an order for which `paley_field` knows a field."""
    found = paley_field(order)
    if found is None:
        raise ValueError(f"Paley's constructions give no matrix of order {order}.")
    q, construction = found
    border = np.zeros((q + 1, q + 1))
    border[0, 1:] = 1
    border[1:, 1:] = _jacobsthal(q)
    if construction == 1:
        border[1:, 0] = -1
        return np.asarray(border + np.eye(q + 1))
    border[1:, 0] = 1
    return np.kron(border, [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1), [[1, -1], [-1, -1]])


def _jacobsthal(q: int) -> npt.NDArray[np.float64]:
    """chi(a - b) for all elements of the field: 1 for squares, -1 for others, 0 for zero."""
    found = _prime_power(q)
    assert found is not None
    prime, degree = found
    elements = np.array(list(product(range(prime), repeat=degree)))  # coefficients, the constant one last
    places = prime ** np.arange(degree)[::-1]
    character = -np.ones(q)
    character[_squares(elements, prime) @ places] = 1
    character[0] = 0
    differences = (elements[:, None, :] - elements[None, :, :]) % prime
    return np.asarray(character[differences @ places])


def _squares(elements: npt.NDArray[Any], prime: int) -> npt.NDArray[Any]:
    """x^2 of every element, modulo the prime and an irreducible polynomial."""
    degree = elements.shape[1]
    wide = np.zeros((len(elements), 2 * degree - 1), int)
    for i in range(degree):
        for j in range(degree):
            wide[:, i + j] += elements[:, i] * elements[:, j]
    polynomial = _irreducible(prime, degree)
    for i in range(degree - 1):  # the highest powers first: x^degree is minus the polynomial's lower part
        for j in range(degree):
            wide[:, i + 1 + j] -= wide[:, i] * polynomial[j]
        wide %= prime
    return wide[:, degree - 1 :] % prime


def _irreducible(prime: int, degree: int) -> tuple[int, ...]:
    """The coefficients below the leading 1 of a polynomial without a root, from that of x^(degree - 1) down."""
    if degree == 1:
        return (0,)
    x = np.arange(prime)
    for lower in product(range(prime), repeat=degree):
        values = np.zeros(prime, int)
        for coefficient in (1, *lower):
            values = (values * x + coefficient) % prime
        if values.all():
            return lower
    raise AssertionError(f"a field of {prime}^{degree} elements exists")


def _prime_power(q: int) -> tuple[int, int] | None:
    """(p, k) with q = p^k, p an odd prime and k at most 3; else None."""
    if q < 3:
        return None
    factor = next((p for p in range(2, int(q**0.5) + 1) if q % p == 0), q)
    degree, left = 0, q
    while left % factor == 0:
        degree, left = degree + 1, left // factor
    return (factor, degree) if left == 1 and factor > 2 and degree <= _LARGEST_DEGREE else None


def _odd(size: int) -> int:
    return size // (size & -size)

"""Prints the largest difference between two .npz files of sentence vectors; exit code 1 if it is too large.

python examples/compare_vectors.py OURS.npz REFERENCE.npz [TOLERANCE, default 1e-4]
"""

import sys

import numpy as np


def main() -> int:
    if len(sys.argv) not in (3, 4):
        print("usage: compare_vectors.py OURS.npz REFERENCE.npz [TOLERANCE]", file=sys.stderr)
        return 2
    ours, reference = (np.load(path)["sentence_embedding"] for path in sys.argv[1:3])
    tolerance = float(sys.argv[3]) if len(sys.argv) > 3 else 1e-4
    if ours.shape != reference.shape:
        print(f"shapes differ: {ours.shape} here, {reference.shape} in the reference", file=sys.stderr)
        return 1
    largest = float(np.abs(ours.astype(np.float64) - reference).max())
    verdict = "within" if largest <= tolerance else "ABOVE"
    print(f"largest difference from Hugging Face transformers: {largest:.2e} ({verdict} {tolerance:g})")
    return 0 if largest <= tolerance else 1


if __name__ == "__main__":
    sys.exit(main())

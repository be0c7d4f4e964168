"""Memory for a kernel's call: inputs of fresh random numbers, outputs full of NaN, and a look at what lies around."""

import torch

# An output element that nobody wrote; int8 has no NaN.
POISON = {torch.int8: 77}
_BYTES = {1: torch.int8, 2: torch.int16, 4: torch.int32}


def bits(x):
    """The tensor's bits as integers, since NaN is equal to nothing."""
    return x.view(_BYTES[x.element_size()])


class Buffers:
    """The arrays of one call on one device. seed: of all random numbers."""

    def __init__(self, device, seed):
        self.device = torch.device(device)
        self.generator = torch.Generator(device=self.device).manual_seed(seed)
        self._around = []

    def random(self, *shape, dtype, scale=1.0):
        """Normal random numbers, without gaps."""
        return self._drawn(shape, scale).to(dtype)

    def rows(self, num_tokens, width, dtype, layout):
        """A matrix of normal random numbers that lies in memory as `layout` (of kernel_cases.LAYOUTS) says."""
        view = self._strided(num_tokens, width, dtype, layout)
        return view.copy_(self._drawn((num_tokens, width)))

    def poisoned(self, num_tokens, width, dtype, layout="packed"):
        """A matrix for an output, full of NaN."""
        return self._strided(num_tokens, width, dtype, layout)

    def halves(self, num_tokens, width, dtype):
        """Two matrices side by side in one buffer."""
        whole = self.rows(num_tokens, 2 * width, dtype, "packed")
        return whole[:, :width], whole[:, width:]

    def check_around(self):
        """Fail if anything but the matrices themselves was written."""
        for whole, view in self._around:
            before = _filled(whole.numel(), whole.dtype, self.device)
            before.as_strided(view.shape, view.stride(), view.storage_offset()).copy_(view)
            assert torch.equal(bits(whole), bits(before)), "elements between or beyond the rows were written"

    def _drawn(self, shape, scale=1.0):
        return scale * torch.randn(shape, generator=self.generator, device=self.device)

    def _strided(self, num_tokens, width, dtype, layout):
        aligned = 16 // dtype.itemsize
        gap = {"apart": aligned * 3 + -width % aligned, "odd": 1}.get(layout, 0)
        first = 1 if layout == "shifted" else 0
        stride = width + gap
        # A row beyond, so that writes past the last one are seen.
        whole = _filled(first + (num_tokens + 1) * stride + aligned, dtype, self.device)
        view = whole.as_strided((num_tokens, width), (stride, 1), first)
        self._around.append((whole, view))
        return view


def _filled(size, dtype, device):
    """NaN in every element, or 77. float8 is filled through float32, which every device can."""
    value = POISON.get(dtype, float("nan"))
    return torch.full((size,), value, dtype=torch.float32, device=device).to(dtype)

"""A map of a saved model beside the model itself, in float64: which module has which matrix, and what it was given."""

import copy
import inspect
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from stack_against_transformers import saved_model

from trtllm_ext.analysis.stream_map import read_stream_map

TOKENS = 5
# Where attention's sizes do not fit each other: these cases have been run with attention's output supplied alone.
_WHOLE = {
    "Helium": {"head_dim": 6},
    **{name: {"num_attention_heads": 3} for name in ("Persimmon", "DINOv3ViTModel", "DINOv3ViTBackbone")},
    "Phi": {"num_attention_heads": 3, "num_key_value_heads": 3},
}


class Beside:
    """found: the map. model: in float64, with the saved weights."""

    def __init__(self, case, folder):
        if case.name in _WHOLE:
            config = copy.deepcopy(case.config)
            for name, value in _WHOLE[case.name].items():
                setattr(config, name, value)
            case = replace(case, config=config)
        self.case = case
        self.model = saved_model(case, folder, "float32").double()
        # PyTorch's product of experts by groups has no float64.
        self.model.config._experts_implementation = "eager"
        for module in self.model.modules():
            if hasattr(module, "scalar_embed_scale"):  # which was rounded to float32
                module.embed_scale.fill_(module.scalar_embed_scale)
        with torch.no_grad():  # without which a norm of q is odd in it
            for name, parameter in self.model.named_parameters():
                if name.endswith(("q_layernorm.bias", "k_layernorm.bias")):
                    parameter.zero_()
        self.found = read_stream_map(folder, stack=case.options.get("stack"))
        self.modules = [
            module
            for module in self.model.modules()
            if isinstance(getattr(module, "weight", None), torch.Tensor)
        ]
        self.names = {module: name for name, module in self.model.named_modules()}
        self.noted, self.known = {}, {}

    def modules_of(self, piece):
        """Those with the values of a piece's weight, the first time that it is asked for: tied ones are several."""
        if piece.name not in self.known:
            stored = torch.from_numpy(np.array(self.found.weights.values(piece.name))).double()
            self.known[piece.name] = [
                module
                for module in self.modules
                if module.weight.shape == stored.shape and torch.equal(module.weight.detach(), stored)
            ]
        return self.known[piece.name]

    def module_of(self, piece):
        """The one module with a piece's weight; None where the model holds it otherwise."""
        return next(iter(self.modules_of(piece)), None)

    def table_of(self, piece):
        """The module that looks up rows of a piece's weight for the stack at hand."""
        base = self.names[self.layers()[0]].rpartition(".")[0].rpartition(".")[0]
        tables = [module for module in self.modules_of(piece) if isinstance(module, torch.nn.Embedding)]
        return next((module for module in tables if self.names[module].startswith(base)), tables[-1])

    @contextmanager
    def watched(self):
        """Note what every module is given and gives, the last time that it is called in a forward pass."""

        def note(module, arguments, output):
            given = next((each for each in arguments if isinstance(each, torch.Tensor)), None)
            gives = output[0] if isinstance(output, tuple | list) else output
            self.noted[module] = (given, gives)

        hooks = [module.register_forward_hook(note) for module in self.model.modules()]
        try:
            yield self.noted
        finally:
            for hook in hooks:
                hook.remove()

    def run(self):
        """The model on inputs that are the same each time, in float64 throughout."""
        generator = torch.Generator().manual_seed(1)
        model = self.model
        if hasattr(model, "vision_model") and hasattr(model, "text_model"):
            model = getattr(model, f"{self.case.options.get('stack', 'text')}_model")
        given = inspect.signature(model.forward).parameters
        inputs = {}
        config = self.model.config
        for name in ("input_ids", "decoder_input_ids"):
            if name in given:
                inputs[name] = torch.randint(3, 45, (1, TOKENS), generator=generator)
        if "pixel_values" in given and "Gemma3" not in self.case.name:
            inputs["pixel_values"] = torch.randn(1, 3, 8, 8, generator=generator).double()
        if "input_features" in given:
            size = (1, config.num_mel_bins, 2 * config.max_source_positions)
            inputs["input_features"] = torch.randn(*size, generator=generator).double()
            inputs.pop("input_ids", None)
        if getattr(config, "add_cross_attention", False):
            inputs["encoder_hidden_states"] = torch.randn(
                1, 3, config.hidden_size, generator=generator
            ).double()
        kept = torch.float32, torch.Tensor.float
        torch.set_default_dtype(torch.float64)
        torch.float32, torch.Tensor.float = torch.float64, lambda tensor: tensor.double()
        try:
            with torch.no_grad(), self.watched() as noted:
                model(**inputs)
        finally:
            torch.set_default_dtype(kept[0])
            torch.float32, torch.Tensor.float = kept
        return noted

    def layers(self):
        return list(self.case.layers(self.model))


def normed(x, contract, gain, shift):
    """The contract's formula."""
    if contract.kind == "layer_norm":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + contract.eps)
    x = x if gain is None else x * gain()
    return x if shift is None else x + shift()


def added(writer, y):
    """What a writer adds to the stream for what it multiplies by."""
    x = y @ writer.matrix.load().astype(np.float64).T
    x = x if writer.bias is None else x + writer.bias()
    if writer.norm is not None:
        x = normed(x, writer.norm, writer.gain, writer.shift)
    return x * writer.scale * (1 if writer.gate is None else writer.gate())


def array(tensor):
    return tensor.detach().numpy().astype(np.float64)

"""Quantised operations: `quantization.functional`, with the names of the module of that path in TensorRT-LLM."""

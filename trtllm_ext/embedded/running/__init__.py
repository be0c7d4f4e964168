"""From the bytes of a plan to results: runtime, engine, context, and the sessions of ONNX Runtime behind them."""

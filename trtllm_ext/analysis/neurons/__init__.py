"""Feed-forward neurons: what they read and write, and what fires them."""

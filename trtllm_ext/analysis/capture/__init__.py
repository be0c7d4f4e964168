"""A transformers model's stream and attention, as the inputs of its stack's engine."""

"""Whether an engine computes what its checkpoint means, and where it first does not."""

"""How many directions the stream fills, and who fills them."""

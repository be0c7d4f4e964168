"""Products of what one sublayer writes and a later one reads."""

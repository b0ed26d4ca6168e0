"""Documents to text, with the places that a citation names."""

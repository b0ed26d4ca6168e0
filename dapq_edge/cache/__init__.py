"""One sequence of a llama.cpp context: its ledger, its cells, and its saved state."""

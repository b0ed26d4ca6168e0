"""Probe, score, budget, select, evict: the stages, and the policies that are made of them."""

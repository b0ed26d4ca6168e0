"""Measurements of what eviction keeps and loses."""

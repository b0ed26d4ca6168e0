"""Texts with their kept tokens shaded, and pictures."""

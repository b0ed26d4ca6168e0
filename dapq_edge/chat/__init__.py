"""Conversations, and sessions that save them."""

"""Bringing a prompt into a cache: reuse, append or read, in one of three modes."""

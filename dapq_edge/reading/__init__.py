"""From a prompt to a cache: reuse, append or read, and one of three ways to read."""

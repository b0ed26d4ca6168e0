"""Memory that a model needs, memory that the machine has, and the source of weights."""

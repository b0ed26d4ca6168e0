"""What a model needs, what the machine has, and where weights come from."""

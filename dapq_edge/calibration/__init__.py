"""Which heads of a model find facts, measured with texts that come with the package."""

"""Calibration of a model: which of its heads find facts, measured with texts that come with the package."""

"""Measurements, as ratios of paired runs; nothing here is part of the package or of the tests."""

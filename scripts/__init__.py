"""Programs for those who work on cdimage."""

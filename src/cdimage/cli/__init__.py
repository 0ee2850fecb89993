"""The command line: it parses, makes one call, and prints one result."""

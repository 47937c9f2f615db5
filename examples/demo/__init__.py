"""A workflow that is killed while it waits, and goes on: `make demo`."""

"""A workflow that is killed while it waits, and continues: `make demo`."""

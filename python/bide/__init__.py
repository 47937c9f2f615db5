"""bide: durable workflows inside your own process."""

"""Benchmarks of bide and its alternatives: `make bench`, or `python -m benchmarks`.

README.md in this folder explains each row. Each module whose name ends in `_rows`
measures one subject, in a process of its own.
"""

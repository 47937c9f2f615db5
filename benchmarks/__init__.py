"""bide measured beside what one would use instead: `make bench`, or `python -m benchmarks`.

README.md in this folder says how each row is measured. The modules whose names
end in `_rows` each measure one subject, in a process of their own.
"""

"""Benchmarks: the one-pass network against honest cascades of separate networks.

    python -m benchmarks              # the quick grid, minutes
    python -m benchmarks --full       # every size and crowd
    python -m benchmarks.report       # the newest result as HTML and PNGs

See benchmarks/README.md for the question, the method and the threats to it.
"""

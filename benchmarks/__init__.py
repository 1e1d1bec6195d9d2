"""What waiting costs, measured: `make bench`, or `python -m benchmarks` from the project's root.

Everything runs on this machine, against the simulator, and ends by itself. Timings depend on the
machine and on what else it does: compare them only within one run.
"""

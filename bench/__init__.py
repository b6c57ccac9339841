"""Benchmarks: what a change costs, from the bytes of an event to the kernel's acknowledgement. `make bench`.

Every figure stands beside a reference measured in the same run, because absolute times on a shared machine mean
little. Nothing here is asserted; docs/status and the README quote ratios.
"""

"""A virtual machine with Debian's kernel over this machine's files, for tests that need what this kernel lacks.

`make e2e-ipvs` boots it once and runs pytest inside. Nothing is installed into it: its root is this machine's, read-only,
with a layer in memory for what is written. It has hardware help where /dev/kvm works and is emulated elsewhere,
roughly ten times slower. Where this kernel has IPVS, the same tests run without it.
"""

"""A forwarder in this process, for kernels that offer nothing else: listeners on the addresses of Services, no netfilter."""

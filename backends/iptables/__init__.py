"""The iptables data plane. README.md follows a packet through it; see backend.py for how the modules meet."""

"""Netlink: a pure codec and one long-lived socket. The only packer of kernel messages in the project."""

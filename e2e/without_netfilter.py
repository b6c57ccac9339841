"""Runs a program, and whatever it starts, as on a kernel that was built without netfilter: `without_netfilter.py PROGRAM ARGUMENT...`

The kernel itself refuses, by a filter of system calls (seccomp) with the error numbers that such a kernel has: there is no
netlink protocol of netfilter, which nftables, ipset, connection tracking and iptables-nft are reached by, and there are no socket
options of legacy iptables. The filter cannot be taken off again.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Final, NamedTuple

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # where they stand in struct seccomp_data
_NETLINK_NETFILTER: Final = 12
_SOL_IP, _SOL_IPV6 = 0, 41


class _Machine(NamedTuple):
    """Numbers of a kind of processor: itself (AUDIT_ARCH_*), and its system calls."""

    architecture: int
    socket: int
    setsockopt: int
    getsockopt: int


_MACHINES: Final = {
    "x86_64": _Machine(0xC000003E, 41, 54, 55),
    "aarch64": _Machine(0xC00000B7, 198, 208, 209),
}


class Rule(NamedTuple):
    """A system call that fails with an error number, where two arguments are these."""

    call: int
    first: tuple[int, int]
    second: tuple[int, int]
    error: int


def rules(machine: _Machine) -> Iterable[Rule]:
    """What a kernel without netfilter refuses. Arguments are given by place and value."""
    netlink = (0, socket.AF_NETLINK), (2, _NETLINK_NETFILTER)
    yield Rule(machine.socket, *netlink, errno.EPROTONOSUPPORT)
    for call in (machine.setsockopt, machine.getsockopt):
        for level, options in ((_SOL_IP, (64, 65, 66, 67)), (_SOL_IPV6, (64, 65, 68, 69))):
            for option in options:
                yield Rule(call, (1, level), (2, option), errno.ENOPROTOOPT)


def program(machine: _Machine) -> bytes:
    """The filter as the kernel's classic BPF. Calls of another architecture fail: they would go past the numbers."""
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, machine.architecture, 1, 0),
        _instruction(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for rule in rules(machine):
        (first, value), (second, other) = rule.first, rule.second
        code += [
            _instruction(_LOAD, _NUMBER),
            _instruction(_EQUAL, rule.call, 0, 5),
            _instruction(_LOAD, _ARGUMENTS + 8 * first),
            _instruction(_EQUAL, value, 0, 3),
            _instruction(_LOAD, _ARGUMENTS + 8 * second),
            _instruction(_EQUAL, other, 0, 1),
            _instruction(_RETURN, _ERRNO | rule.error),
        ]
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def _instruction(operation: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, if_so, if_not, value)


def give_up_netfilter() -> None:
    """Have this process, and all that it becomes or starts, refused everything of netfilter. Raises OSError."""
    code = program(_MACHINES[platform.machine()])
    kept = ctypes.create_string_buffer(code, len(code))
    fields = struct.pack("@HP", len(code) // 8, ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(fields), 0, 0),
    ):
        if libc.prctl(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    give_up_netfilter()
    os.execvp(sys.argv[1], sys.argv[1:])

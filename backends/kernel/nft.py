"""The door to nftables: commits transactions and lists what there is, over netlink. Shell; holds no policy.

No process is started and no text is written. Transactions are in the words of `nft_messages` and `nft_elements`.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from backends.kernel import nft_elements, nft_messages
from backends.kernel.netfilter import Netfilter
from backends.kernel.nft_elements import Data, Element
from backends.kernel.nft_messages import Chain, Rule, Set, Table
from proxy.errors import KernelError
from proxy.model import Value
from proxy.netlink import codec
from proxy.netlink.codec import Request
from proxy.netlink.socket import Ack, DumpInterrupted

T = TypeVar("T")

_KEYS_AT_ONCE: Final = 1000  # each answer counts as some 5 kB in the receive buffer


class Refusal(Value, frozen=True):
    """One message of a transaction the kernel would not carry out.

    `index` is its place in the transaction; None means the transaction as a whole (no rights, no memory, a conflict
    at commit). `offset` is where in the message, counted from its header, the attribute at fault stands; None where the
    kernel does not say. For elements, `nft_elements.element_at` finds the one at fault.
    """

    index: int | None
    errno: int
    text: str
    offset: int | None = None

    def __str__(self) -> str:
        where = "transaction" if self.index is None else f"message {self.index}"
        return f"{where}: {self.text or os.strerror(self.errno)}"


class Refused(KernelError):  # noqa: N818 (reads as a fact in `except`)
    """A transaction was refused and nothing of it was done. `refusals` name every message the kernel objected to.

    When replies were lost because there were too many, some are missing; there is always one.
    """

    def __init__(self, request: str, refusals: tuple[Refusal, ...]) -> None:
        more = f" and {len(refusals) - 1} more" if len(refusals) > 1 else ""
        super().__init__(request, refusals[0].errno, f"{refusals[0]}{more}")
        self.refusals = refusals


class Nft(Netfilter):
    """nftables of a network namespace."""

    def commit(self, messages: Sequence[Request]) -> None:
        """Carry out messages as one transaction: all or, with Refused, none. Without messages nothing is sent.

        Raises KernelError itself when the transaction could not be sent (EMSGSIZE, ENOBUFS: nothing was done), or when
        the outcome is unknown (ENOBUFS or ETIMEDOUT on replies: read back what it touched).
        """
        if not messages:
            return
        # The acknowledgement must be asked of the last real message: that of the batch's end comes only from
        # newer kernels (on 6.18, not on 6.1), one of an earlier message comes even if a later one is refused.
        last = messages[-1]
        batch = [
            nft_messages.batch_begin(),
            *messages[:-1],
            last._replace(flags=last.flags | codec.NLM_F_ACK),
            nft_messages.batch_end(),
        ]
        failures = self._commands.transact(batch)
        if failures:
            refusals = tuple([_refusal(failure, len(messages)) for failure in failures])
            raise Refused(f"nftables transaction of {len(messages)} messages", refusals)

    def generation(self) -> int:
        """Return the number of the namespace's ruleset: any transaction, ours or not, raises it."""
        (payload,) = self._ask([nft_messages.get_generation()])
        if payload is None:
            raise KernelError("nftables generation", errno.ENOENT, "the kernel has none")
        return nft_messages.parse_generation(payload)

    def find_table(self, family: int, name: str) -> Table | None:
        """Return one table, None if there is none."""
        (payload,) = self._ask([nft_messages.get_table(family, name)])
        return None if payload is None else nft_messages.parse_table(payload)

    def find_chain(self, family: int, table: str, name: str) -> Chain | None:
        """Return one chain, None if there is none."""
        (payload,) = self._ask([nft_messages.get_chain(family, table, name)])
        return None if payload is None else nft_messages.parse_chain(payload)

    def find_set(self, family: int, table: str, name: str) -> Set | None:
        """Return one set or map, None if there is none."""
        (payload,) = self._ask([nft_messages.get_set(family, table, name)])
        return None if payload is None else nft_messages.parse_set(payload)

    def find_elements(
        self, family: int, table: str, name: str, keys: Sequence[bytes]
    ) -> dict[bytes, Data]:
        """Return those of the elements with these keys that exist. Each is read by itself, not all at one instant."""
        found: dict[bytes, Data] = {}
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            part = keys[start : start + _KEYS_AT_ONCE]
            for payload in self._ask(nft_elements.get_elements(family, table, name, part)):
                if payload is not None:
                    found.update(nft_elements.parse_elements(payload))
        return found

    def list_tables(self, family: int) -> list[Table]:
        """Return the tables of a family, foreign ones too.

        This and the other `list_` methods raise DumpInterrupted if the ruleset changes meanwhile; anyone's transaction
        in this namespace does.
        """
        return self._list(nft_messages.list_tables(family), nft_messages.parse_table)

    def list_chains(self, family: int, table: str) -> list[Chain]:
        """Return the chains of a table. The kernel lists those of all tables of the family, so it costs accordingly."""
        request = nft_messages.list_chains(family)
        return [c for c in self._list(request, nft_messages.parse_chain) if c.table == table]

    def list_rules(self, family: int, table: str, chain: str | None = None) -> list[Rule]:
        """Return the rules of a table or one chain, in order within a chain."""
        request = nft_messages.list_rules(family, table, chain)
        return self._list(request, nft_messages.parse_rule)

    def list_sets(self, family: int, table: str) -> list[Set]:
        """Return the sets and maps of a table. Raises KernelError with ENOENT if the table is missing."""
        return self._list(nft_messages.list_sets(family, table), nft_messages.parse_set)

    def list_elements(
        self, family: int, table: str, name: str, *, is_strict: bool = True
    ) -> Iterator[list[tuple[bytes, Data]]]:
        """Yield keys and data of a set's elements, in blocks of some hundreds, read as they are asked for.

        Raises DumpInterrupted as the other lists do, and while the kernel resizes the set, as it does for some time
        after it has grown or shrunk by much. If not strict it goes on; then some elements may be seen twice or not at
        all. Starting another list interrupts this one. Leaving it early costs the time of reading the rest: 2 us for
        each element of a large map. Raises KernelError with ENOENT if table or set is missing.
        """
        request = nft_elements.list_elements(family, table, name)
        seen: set[bytes] = set()
        for piece in self._dump(request, is_strict=is_strict):
            for payload in piece:
                if is_strict:
                    _note(seen, nft_elements.split_elements(payload))
                yield nft_elements.parse_elements(payload)

    def list_all_elements(
        self, family: int, table: str, name: str, *, is_strict: bool = True
    ) -> list[Element]:
        """Return a set's elements with all there is to know about them: ranges and timeouts. For small sets.

        Raises as `list_elements` does.
        """
        request = nft_elements.list_elements(family, table, name)
        return [
            element
            for piece in self._dump(request, is_strict=is_strict)
            for payload in piece
            for element in nft_elements.parse_all_elements(payload)
        ]

    def _list(self, request: Request, parse: Callable[[memoryview], T]) -> list[T]:
        return [parse(payload) for piece in self._dump(request) for payload in piece]

    def _dump(self, request: Request, *, is_strict: bool = True) -> Iterator[list[memoryview]]:
        """Yield the pieces of a dump, if strict only as long as all belong to one generation of the ruleset.

        For elements the kernel does not set the flag of an interrupted dump (seen on 6.18), but each message
        carries the lower half of its generation.
        """
        first: int | None = None
        for piece in self._dumps.dump(request, is_strict=is_strict):
            for payload in piece if is_strict else ():
                generation = nft_messages.parse_generation_stamp(payload)
                if first is None:
                    first = generation
                elif generation != first:
                    raise DumpInterrupted("the ruleset has changed meanwhile")
            yield piece

    def _ask(self, requests: Sequence[Request]) -> list[memoryview | None]:
        """Return the payload of each answer, None where the kernel knows no such thing."""
        payloads: list[memoryview | None] = []
        for reply in self._commands.ask(requests):
            if not isinstance(reply, Ack):
                payloads.append(reply.payload)
            elif reply.errno == errno.ENOENT:
                payloads.append(None)
            else:
                text = reply.text or os.strerror(reply.errno)
                raise KernelError("nftables query", reply.errno, text)
        return payloads


def _note(seen: set[bytes], elements: list[bytes]) -> None:
    """Remember elements of a list. Raises DumpInterrupted if one was there before.

    For each piece of a dump the kernel walks the set anew and skips as many elements as it has sent. When a hash table is
    resized between two pieces the order changes, and nothing says so (6.18: 10 % of a map were missing just after
    it was filled). As many elements as there are in the set are sent all the same, so if one is missing another one
    comes twice.
    """
    before = len(seen)
    seen.update(elements)
    if len(seen) != before + len(elements):
        raise DumpInterrupted("the kernel is resizing the set")


def _refusal(failure: Ack, count: int) -> Refusal:
    # the batch's begin is sent before the messages, its end after them; both stand for the whole
    index = failure.index - 1
    is_message = 0 <= index < count
    return Refusal(index if is_message else None, failure.errno, failure.text, failure.offset)

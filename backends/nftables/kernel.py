"""The kernel's side of our tables. Shell."""

from typing import Final

from backends.kernel.nft_owned import OwnTables
from backends.nftables.model import PROBE_TABLE, TABLE
from backends.nftables.names import form_of

OURS: Final = OwnTables(TABLE, PROBE_TABLE, form_of)

"""What became of the packets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """Packets since the start. A TSO packet of up to 64 KiB counts once."""

    forwarded_count: int
    forwarded_bytes: int
    lost_count: int  # by the share that was asked for
    cut_count: int  # of cut pairs, and to or from hosts that are detached
    overflow_count: int  # a queue was full
    unroutable_count: int  # no host has the destination's address
    retried_count: int  # the device was full; written later
    refused_count: int  # the device took no packet: its interface is down

"""File descriptors: each connection takes one."""

from __future__ import annotations

import resource


def raise_fd_limit() -> int:
    """As many as the host allows this process; returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard

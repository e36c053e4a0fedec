"""What malloc keeps of freed memory, and when it goes back to the system."""

from __future__ import annotations

import contextlib
import sys


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep what is freed for the next step instead of returning it to the system: the large
    temporaries of a training step otherwise cost a page fault for every 4 KiB, each time. No effect elsewhere."""
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    if libc := _glibc():
        with contextlib.suppress(AttributeError):
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def return_freed_memory() -> None:
    """Give back to the system what malloc and Arrow have kept of freed memory, such as that in which a log was sorted.
    No effect but on Linux's malloc."""
    if pyarrow := sys.modules.get("pyarrow"):
        pyarrow.default_memory_pool().release_unused()
    if libc := _glibc():
        with contextlib.suppress(AttributeError):
            libc.malloc_trim(0)


def _glibc():
    """The C library of this process, or None where it is not glibc."""
    if sys.platform.startswith("linux"):
        import ctypes

        with contextlib.suppress(OSError):
            return ctypes.CDLL("libc.so.6")
    return None

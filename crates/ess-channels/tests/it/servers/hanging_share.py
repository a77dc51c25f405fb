"""A share whose server is gone: a file system over a directory, of which the kernel asks and nobody answers (FUSE).

`hanging_share.py DIRECTORY` mounts it and says `HANGING`. With the end of its input the mount ends: whoever hangs in it gets
an error, and the directory is there again. Where nothing may be mounted it says `IMPOSSIBLE` and why.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def mount(directory: str) -> int:
    """The kernel's side of the file system, which stays unread."""
    here, there = socket.socketpair()
    told = {**os.environ, "_FUSE_COMMFD": str(there.fileno())}
    command = ["fusermount3", "-o", "fsname=hanging", "--", directory]
    mounted = subprocess.run(command, env=told, pass_fds=[there.fileno()], stderr=subprocess.PIPE, text=True)
    if mounted.returncode:
        print("IMPOSSIBLE", mounted.stderr.strip(), flush=True)
        sys.exit(1)
    _, [kernel], _, _ = socket.recv_fds(here, 1, 1)
    return kernel


def main() -> None:
    """Hangs until the input ends."""
    directory = sys.argv[1]
    kernel = mount(directory)
    print("HANGING", flush=True)
    sys.stdin.read()
    os.close(kernel)
    subprocess.run(["fusermount3", "-u", "-z", "--", directory], check=True)


if __name__ == "__main__":
    main()

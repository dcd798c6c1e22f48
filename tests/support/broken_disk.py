"""File systems of our own, to pull the plug on and to fill: an image on a loop device. Needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MiB = 1024 * 1024


def why_no_disk() -> str | None:
    """Why no file system can be made here, or `None` where one can."""
    if os.geteuid() != 0:
        return "needs root, for a loop device"
    if not Path("/dev/loop-control").exists():
        return "this machine has no loop devices"
    missing = [name for name in ("losetup", "mkfs.ext4", "mount", "umount") if shutil.which(name) is None]
    return f"{missing[0]} is not installed" if missing else None


@dataclass
class Disk:
    """A file system in an image. `cut` gives the image as a power cut would leave it."""

    image: Path
    mounted: Path
    device: str = ""

    def mount(self) -> None:
        """Attach the image and mount it; an unclean journal is replayed, as after a power cut."""
        self.mounted.mkdir(parents=True, exist_ok=True)
        self.device = _run("losetup", "-f", "--show", str(self.image)).strip()
        _run("mount", "-t", "ext4", "-o", "noinit_itable", self.device, str(self.mounted))

    def unmount(self) -> None:
        """Take it away; whoever still uses it keeps it busy for a moment."""
        if not self.device:
            return
        deadline = time.monotonic() + 10.0
        while subprocess.run(["umount", str(self.mounted)], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                subprocess.run(["umount", "-l", str(self.mounted)], capture_output=True, check=False)
                break
            time.sleep(0.1)
        subprocess.run(["losetup", "-d", self.device], capture_output=True, check=False)
        self.device = ""

    def cut(self, copy: Path) -> None:
        """What has reached the device by now, and nothing that the system still holds in memory."""
        _run("cp", "--sparse=auto", str(self.image), str(copy))

    def fill(self, leave: int) -> Path:
        """Use up all space but `leave` bytes; the file that does, to be deleted."""
        ballast = self.mounted / "ballast"
        free = shutil.disk_usage(self.mounted).free
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - leave, MiB))
        return ballast


@contextlib.contextmanager
def disk(folder: Path, *, megabytes: int) -> Iterator[Disk]:
    """A new, empty, mounted file system, taken away with the context."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Disk(folder / "disk.img", folder / "mounted")
    with made.image.open("wb") as file:
        file.truncate(megabytes * MiB)
    _run("mkfs.ext4", "-q", "-m", "0", str(made.image))
    made.mount()
    try:
        yield made
    finally:
        made.unmount()


def freeze(pids: Sequence[int], number: signal.Signals) -> None:
    """Stop, continue or kill processes of ours, as one as far as can be."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def group_of(pid: int) -> list[int]:
    """A process and its children's children, the parent first, so that it cannot start them again."""
    found = [pid]
    for each in found:
        children = Path(f"/proc/{each}/task/{each}/children")
        with contextlib.suppress(FileNotFoundError):
            found += [int(child) for child in children.read_text().split()]
    return found


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout

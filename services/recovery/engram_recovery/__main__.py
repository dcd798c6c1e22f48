"""Run recovery: `python -m engram_recovery`."""

from engram_recovery.service import open_service
from engram_recovery.settings import Settings
from engram_runtime.host import run

if __name__ == "__main__":
    run("recovery", open_service, Settings)

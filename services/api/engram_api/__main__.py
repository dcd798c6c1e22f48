"""Runs the door."""

from engram_api.service import open_service
from engram_api.settings import Settings
from engram_runtime.host import run

if __name__ == "__main__":
    run("api", open_service, Settings)

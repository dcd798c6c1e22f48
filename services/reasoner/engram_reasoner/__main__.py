"""Run the reasoner: `python -m engram_reasoner`."""

from engram_reasoner.service import open_service
from engram_reasoner.settings import Settings
from engram_runtime.host import run

if __name__ == "__main__":
    run("reasoner", open_service, Settings)

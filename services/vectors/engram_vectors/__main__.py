"""Run the vectors service: `python -m engram_vectors`."""

from engram_runtime.host import run
from engram_vectors.service import open_service
from engram_vectors.settings import Settings

if __name__ == "__main__":
    run("vectors", open_service, Settings)

"""Run the embedder."""

from engram_embedder.service import open_service
from engram_embedder.settings import Settings
from engram_runtime.host import run

if __name__ == "__main__":
    run("embedder", open_service, Settings)

"""Run the graph: `python -m engram_graph`."""

from engram_graph.service import open_service
from engram_graph.settings import Settings
from engram_runtime.host import run

if __name__ == "__main__":
    run("graph", open_service, Settings)

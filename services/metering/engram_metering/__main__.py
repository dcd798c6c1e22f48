"""Run metering: `python -m engram_metering`."""

from engram_metering.service import open_service
from engram_metering.settings import Settings
from engram_runtime.host import run

if __name__ == "__main__":
    run("metering", open_service, Settings)

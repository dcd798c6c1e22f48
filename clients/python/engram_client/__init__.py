"""Client for Engram's HTTP door, asynchronous and synchronous."""

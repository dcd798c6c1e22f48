"""The engram command and the supervisor that runs all of it on one machine."""

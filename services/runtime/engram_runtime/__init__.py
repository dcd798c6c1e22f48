"""Bus, delivery policy, provisioning, settings, telemetry and host of Engram's services."""

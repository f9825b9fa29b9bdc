"""The transit device: relays every frame bit for bit and exports authenticated path telemetry."""

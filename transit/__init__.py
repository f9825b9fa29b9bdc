"""The transit device: relays frames bit for bit, exports authenticated path telemetry, and enforces group policy."""

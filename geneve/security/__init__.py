"""The security mechanism: associations, keys, coverage, sealing, opening, replay protection."""

"""Geneve over DTLS 1.2 between NVEs, as the draft's appendix 8.1 has it."""

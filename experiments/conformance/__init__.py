"""The conformance experiment: the tables of the draft's appendix filled in by probes, for each mechanism."""

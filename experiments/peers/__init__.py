"""``make bench``: the NVE beside real tunnels, all between the same two tenants over the same underlay.

Imports ``topologies/`` for the sandbox, for background programs and for a private Open vSwitch; every contender, the
NVE included, is started as the program that users start.
"""

"""The underlay: OpenFlow switches, paths and rules."""

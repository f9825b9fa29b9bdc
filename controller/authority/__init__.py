"""The network virtualization authority: nodes, mappings, policies and keys."""

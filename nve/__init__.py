"""The network virtualization edge: tenants' frames in and out of the overlay (RFC 7365, RFC 8926)."""

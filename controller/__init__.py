"""The controller: forwards the underlay with OpenFlow and is the overlay's NVA."""

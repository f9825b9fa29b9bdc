"""The control protocol between nodes (NVEs, transit devices) and the NVA, without its sockets."""

"""The audit for operators: a scenario, or a capture of any Geneve network, against SEC-OP-1 to SEC-OP-10."""

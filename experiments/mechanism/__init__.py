"""The mechanism experiment: one live probe for each of SEC-GEN-1 to 17, and the same probe against a crippled one."""

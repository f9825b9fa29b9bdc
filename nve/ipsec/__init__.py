"""IPsec between NVEs: ESP (RFC 4303) and AH (RFC 4302) around Geneve datagrams, keys from the NVA (RFC 9061)."""

"""What operators see and do: HTTPS interface, its description, and what it asks of the authority."""

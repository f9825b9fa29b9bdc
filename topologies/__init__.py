"""The emulated network: scenario files, the plan made from them, the sandbox, and Mininet."""

"""What every part of the testbed shares: the Geneve wire format and the security mechanism.

Pure code only: functions take bytes (and a time) and give bytes and events. No sockets, clocks,
files or processes live in this package, and it imports nothing else of the project.
"""

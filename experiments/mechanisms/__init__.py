"""The mechanisms that the draft's appendix judges, beside security options, through one and the same NVE.

``compared*`` is the experiment *mechanisms*, with ``setup_times`` for keys on the emulated network; ``partial*`` is the
experiment *partial*: what tenants who encrypt themselves save by a protection that leaves out what they have done.
"""

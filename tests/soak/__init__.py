"""`make soak`: three guests at work for a long time, while one thing after another goes wrong.

    direct ── agent ═══════════════════════ unix ═══ gvproxy ═ host ── veth ── outside
    cable  ── agent ═ unix ═ bad cable ═════ unix ═══╡
    plain  ── agent ═ unix ═ to hyperkit ═══ unix ═══╛

Read `ledger` first: it says which failure is the fault of which fault, and which is a violation.
`place` is what is set up, `protocol` and `loads` are what the guests do, `faults` what is done to
them, `recovery` what has to work again afterwards.
"""

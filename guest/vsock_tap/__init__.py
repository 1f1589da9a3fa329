"""The agent in the guest: a tap, a lease and a link to the host's `gvproxy`.

Begin with `agent`, which joins the parts: `link` connects, `relay` moves the frames, `dhcp` gets
the lease, `network` and `resolvconf` put it into effect.
"""

"""What the agent in the guest and the daemon on the host share: the link between them.

`endpoint` names and opens the byte stream, `upgrade` is the handshake on it, `framing` cuts it
into Ethernet frames, `vnet` describes the virtio-net header that travels with a frame, `tap`
opens the guest's network device.  `flags` reads a command line, and `notify` speaks to systemd.
Nothing here knows either program.
"""

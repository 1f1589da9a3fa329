"""What the gateway offers its guests, on top of the stack: DHCP, DNS, and published ports.

`dhcp` and `dns` take a message and give an answer; how both travel is the daemon's affair.
"""

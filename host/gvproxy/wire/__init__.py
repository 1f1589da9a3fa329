"""Protocol headers as offsets and structs: what the bytes mean, and nothing about what to do.

One module a protocol.  The functions are for the general path; the fast path of `stack` unpacks
several headers with one struct and takes its constants from here.
"""

"""What ends the agent; everything else is waited out."""


class AgentError(Exception):
    """The agent cannot do its work; the message is one line for the user."""


class RefusedError(AgentError):
    """The kernel refuses a setting of the interface, which is still there."""

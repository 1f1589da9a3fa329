"""What ends the agent; everything else is waited out."""


class AgentError(Exception):
    """The agent cannot do its work; the message is one line for the user."""

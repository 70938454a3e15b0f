"""The whole server as a state machine: everything real but LocalAI, stdio and time."""

"""The LocalAI stand-in, over real sockets and against what LocalAI answered."""

"""``python -m inference_mcp`` is ``inference-mcp``."""

from inference_mcp.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

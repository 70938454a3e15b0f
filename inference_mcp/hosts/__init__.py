"""Other programs' settings: what each host needs to start this server, and where it is written.

    facts       one table: hosts, their files by platform, shapes, secrets, links, how known
    launching   how this very program is started from anywhere
    entries     a host's entry: launch, settings and secrets in its own words
    snippets    an entry as JSON, TOML or YAML
    commands    the same as a host's own command line, and as a link that it opens
    jsonc       JSON with comments: where each value stands, and what is wrong at which place
    editing     an entry put into the text of a file, and nothing else in it touched
    files       that text on disk: backup, whole replacement, links and permissions kept
    telling     what a person reads of it all

Above is ``cli``. Nothing here starts a host or runs its commands, and nothing knows MCP,
LocalAI or a secret's value: a key or token is named, and the host is told how to ask for it.
"""

from inference_mcp.hosts.telling import Wanted, run_config

__all__ = ["Wanted", "run_config"]

"""What a host sees: tools, results, progress, resources. The only room that speaks MCP.

Above it stands ``server``, which connects it to stdio. Below are jobs, the backend's Protocol,
pictures and observations. It knows no HTTP, takes no decision about order, and keeps nothing.

    ``arguments``  what each tool takes, checked here and nowhere else
    ``compacting`` its JSON schema, as small as it can be
    ``refusals``   what is said when arguments do not fit
    ``calls``      checked arguments → frozen requests (model, seed and picture settled)
    ``content``    jobs → content blocks, errors → ``[code] what happened. What to do next.``
    ``status``     the bodies of the status tools and resources
    ``listing``    the eleven tools as a host lists them
    ``tools``      what each of them does
    ``cancels``    whether a host's cancel is one of the job
    ``resources``  pictures, models and status as resources
    ``page``       what only the queue's page reads
    ``prompts``    common tasks, for a person's menu
    ``completing`` what may be filled in, while a person types
    ``health``     what can be computed now, why not; ``advice``: what may be done about it
    ``progress``   the lines that a waiting host is sent

The attacker at this door is the model, or who wrote what it read. It calls what it likes with
what it likes, and what it learns may leave by its host. So:

- Arguments are checked before anything else sees them, their size before they are walked: types,
  ranges, lengths, names (no unknown one passes), schemas (bounded, no remote
  ``$ref``, matched under a time limit in a process of their own).
- It names files only through ``pictures``, inside the folders that operator and host allow, and
  nothing by URL. It chooses no address, key, folder, limit or setting, and starts no program.
- It can fill a bounded queue, and overtake only within its rank: classes and turns keep it from
  starving others (S8, S12).
- It is told in this server's own words what happened, never LocalAI's, and its own path at most.
- It sees the queue of all of the user's processes, but no content of it, and cancels its own
  jobs alone; a job's id is 40 random bits, of this process.

What a local model *answers* is as little to be trusted as a web page: it goes to the host as
text, and nothing here acts on it.
"""

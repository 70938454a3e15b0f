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
    ``resources``  pictures and status as resources; completion
    ``progress``   the lines that a waiting host is sent
"""

"""``inference-mcp doctor``: what would keep this server from working, and what to do about it.

One ``Check`` after the other, for a person or as JSON. LocalAI is asked through the real client
and the folder through the picture store, so what passes here is what the server will do itself.
What cannot be checked, because something before it failed, counts as not passed, but is told as
a note: there is nothing to mend in it.

    ``examining``  the settings and the folders, and all checks in their order
    ``fitness``    LocalAI: its health, the model of each type, its own limits against ours
    ``siblings``   the processes that share its queue; no seat is taken there
    ``probing``    one tiny request of each type; only where it is asked for
    ``checks``     what a check is, and how it is told

Above it is ``cli``, which has read the settings. Below are ``localai``, ``pictures`` and
``sharing``. Without ``probing`` it generates nothing, and it shows neither the key nor
credentials of a URL.
"""

from inference_mcp.doctor.checks import Check
from inference_mcp.doctor.examining import examine, run_doctor
from inference_mcp.doctor.fitness import MODELS_LIMIT_S, check_backend

__all__ = ["MODELS_LIMIT_S", "Check", "check_backend", "examine", "run_doctor"]

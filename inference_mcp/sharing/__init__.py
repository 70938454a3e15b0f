"""One queue for all processes of a user that use the same LocalAI: rules S21 to S23.

Hosts start a stdio server more than once, and each process alone would believe that it owns
the GPU. So one of them, the *arbiter*, keeps the queue; every other one has a *seat* at it, and
so has the arbiter's own process. What passes between them is small: rank, model, type, size,
grant, stop, done. Prompts, pictures, results and keys stay where they are, and each process
makes its own calls, loads included.

    ``shared``   the scheduler that jobs see: finds the others, sits down, takes over
    ``member``   this process's requests (``request``) and what is told of them; no socket
    ``desk``     the arbiter: seats (``seat``), their requests (``claim``), loads that members
                 carry (``loads``), how it all stands (``views``), what the last one left
                 (``legacy``)
    ``post``     what the arbiter says, in one order for all
    ``ends``     what waits to be sent, and how much is heard
    ``asked``, ``told``, ``wire``   the messages
    ``channel``  one connection: lines over a socket that only this user can open
    ``place``    where they meet: a private folder, a lock for each generation of arbiters

S21 All share one arbiter, found by user and LocalAI's address  ``place``, ``shared``
S22 Who leaves or dies takes what waits along; texts free their slots at once, pictures are
    abandoned, a load passes to another process                 ``desk``, ``scheduling.succession``
S23 Another takes over within a second: the lease table goes to all before a grant goes to its
    owner, a successor counts what the table tells as held, waiting requests keep their
    numbers, an arbiter that hangs is left and finds itself deposed
                                                                ``desk``, ``member``, ``shared``

The attackers at this door are other users of the machine, and a process of one's own user that
speaks nonsense: an older version, a broken one, one that an attacker has taken.

- Nobody else gets in: the folder and its socket are for their owner alone, which is looked at
  before they are used (a link, a stranger's folder, loose rights: no sharing); over TCP, where
  sockets have no rights, both sides prove a secret from the private folder without sending it.
- Who is in can take and hold leases, and so wait or starve the queue, as it could by calling
  LocalAI itself; it cannot read a prompt, an answer, a picture or a key, for none passes here.
- Each message is parsed by a strict shape, bounded in size, number and rate of seats; nonsense
  costs its sender the seat and the others nothing. What it tells of its own requests steers
  those alone, and a load that it hangs ends with its time limit. But it is believed what it
  tells of LocalAI (models in memory, its limit of them), and who calls itself by another's name
  takes that one's seat, which then sits down anew at the next arbiter's: both cost order and
  speed, as its own calls to LocalAI could. A name that sits may come again, for whoever comes
  back keeps its old connection until it has the new one: were that closed first, the arbiter
  would take it for dead and give its running calls' slots away.
- An arbiter that lies or hangs can starve its members for 3 s before they leave it; what it
  grants them is still their own call with their own key.

Nothing runs in the background when no server does, and nothing beats while nothing is pending.
Above is ``server``; below are ``scheduling`` and the records.
"""

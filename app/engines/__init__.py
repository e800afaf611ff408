"""The embedded Redis and PostgreSQL: private servers inside one data directory, started only by the supervisor.

``home`` holds the data directory (lock, passwords, sockets), ``process`` starts and stops other programs,
``redis`` and ``postgres`` each know one server, ``embedded`` runs them together and restarts what dies.

Numbered choices, referred to by number in the modules:

1. Unix sockets only, a password on each server, and the socket directory closed to everybody else.
2. Run as root, the servers run as an unprivileged existing user (the owner of an older data directory, else
   ``nobody``). Each is started *inside* its directory and told ``/proc/self/cwd``, so that it works below a parent
   directory which that user may not enter; nothing outside the data directory changes its mode.
3. Children die with their parent (PR_SET_PDEATHSIG, set after the change of user, which clears it). What was left
   running nevertheless is found by its working directory and stopped before the next start.
4. The directory records engine and version; data written by another engine or a newer version is refused, because
   an older Redis opens such a directory as if it were empty.
"""

"""The watch over ranks that are processes: one hub, and beside every rank a small process of its own, the watcher.

A watcher outlives its rank and needs nothing of it: it notices a rank that was killed or stopped, one that waits in
MPI_Init or MPI_Finalize (which hold the interpreter lock), and can end a rank that can no longer end itself.

Modules here import the standard library only, and each other relatively: watchers load them under another name,
without the package above them, so that one starts in a few hundredths of a second.
"""

"""Work in a child of this process, which has all imports already: killing it costs no start of an interpreter."""

import os
import signal


class Fork:
    """``work(*args)`` in a child process, which ends with 1 if nothing ends it before."""

    def __init__(self, work, *args):
        self.code = None
        self.pid = os.fork()
        if not self.pid:
            try:
                work(*args)
            finally:
                os._exit(1)  # whatever happened: the child must not go on with the tests

    def wait(self):
        """Its exit code, or the negative number of the signal that killed it."""
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def kill(self):
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

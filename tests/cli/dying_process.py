"""`training.fit_generator`, of whose second process the system takes the life in update 25."""

import os
import signal

import reverie.training.fit_generator.__main__ as command
from reverie.training.launch import mistakes
from reverie.world_models.diffusion.sharing import Shared

UPDATE = 25
gradients, done = Shared.gradients, 0


def dying(self, *arguments):
    global done
    done += 1
    if self.rank == 1 and done == UPDATE:
        os.kill(os.getpid(), signal.SIGKILL)
    return gradients(self, *arguments)


Shared.gradients = dying
mistakes.run(command.main)

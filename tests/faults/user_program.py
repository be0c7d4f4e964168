"""A program on two ranks, as a user writes one: user_program.py ENGINE_DIR OUTPUT STATEMENT.

Rank 1 executes the statement between two runs.
"""

import sys
import time

import numpy as np

import trtllm_ext as tx
from trtllm_ext.parallel import launched_rank

engine_dir, output, statement = sys.argv[1:]
with tx.Session.from_engine_dir(engine_dir) as session:
    x = np.ones((4, 16), np.float32)
    for step in range(4):
        if step == 2 and launched_rank() == 1:
            exec(statement, {"sys": sys, "time": time, "x": x, "session": session})
        y = session.run({"hidden_states": x})["hidden_states_out"]
    if launched_rank() == 0:
        np.savez(output, y=y)

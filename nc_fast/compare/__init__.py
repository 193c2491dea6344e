"""Train the same network on the same batches from different initializations, and compare.

``networks`` holds what is trained, ``plan`` says what to run, ``workers`` runs it, ``records`` keeps what is finished, ``statistics``
pairs the runs with He's, ``tables`` and ``plots`` show it. torch is used throughout; joblib only in ``workers``, lsuv only in
``initializations``, matplotlib only in ``plots``.
"""

from nc_fast.compare.plan import Plan, Task
from nc_fast.compare.records import Folder
from nc_fast.compare.training import Point, Run
from nc_fast.compare.workers import run_plan

__all__ = ["Folder", "Plan", "Point", "Run", "Task", "run_plan"]

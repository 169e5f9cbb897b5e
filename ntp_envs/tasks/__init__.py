"""Task families, and `make_task` which builds one by name."""

from ntp_envs.tasks.base import BestInClass, Task
from ntp_envs.tasks.contamination import Contamination
from ntp_envs.tasks.registry import make_task, register_task, task_names

__all__ = ["BestInClass", "Contamination", "Task", "make_task", "register_task", "task_names"]

"""Tasks: named data sets, a user's own files, and the splits and examples that come from them."""

from preface.tasks.example import Example
from preface.tasks.find import Source, TaskInfo, list_tasks
from preface.tasks.load import Split, iter_examples, load_split, load_task
from preface.tasks.read import iter_rows
from preface.tasks.row import Row
from preface.tasks.task import Task

__all__ = [
    "Example",
    "Row",
    "Source",
    "Split",
    "Task",
    "TaskInfo",
    "iter_examples",
    "iter_rows",
    "list_tasks",
    "load_split",
    "load_task",
]

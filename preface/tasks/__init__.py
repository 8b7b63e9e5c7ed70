"""Tasks: named data sets, a user's own files, and the splits and examples that come from them."""

from preface.tasks.example import Example, Template, gold_of, groups_of, render
from preface.tasks.find import Source, TaskInfo, list_tasks
from preface.tasks.load import load_task
from preface.tasks.options import DataOptions
from preface.tasks.read import Row, iter_rows
from preface.tasks.split import Split, iter_examples, load_split
from preface.tasks.task import Task

__all__ = [
    "DataOptions",
    "Example",
    "Row",
    "Source",
    "Split",
    "Task",
    "TaskInfo",
    "Template",
    "gold_of",
    "groups_of",
    "iter_examples",
    "iter_rows",
    "list_tasks",
    "load_split",
    "load_task",
    "render",
]

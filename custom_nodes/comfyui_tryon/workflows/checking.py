"""Checks a workflow against the running engine, which runs other packs' code: it may raise anything or never return."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout

from ..engine import aside
from ..engine.interface import Engine, GraphError
from ..engine.raised import trace_of, type_name
from .binding import Workflow
from .format import WorkflowInvalid

logger = logging.getLogger(__name__)

CHECK_LIMIT_S = 30.0


def check(engine: Engine, parse: Callable[[], Workflow]) -> Workflow:
    """Returns the workflow that `parse` makes, if `engine` would execute it. Call it off the event loop.

    Raises:
        WorkflowInvalid: it would not, or this cannot be found out in time.
    """
    try:
        return aside.start(lambda: _check(engine, parse)).result(CHECK_LIMIT_S)
    except (aside.TooSlow, FutureTimeout):
        raise WorkflowInvalid(f"its nodes could not be checked within {CHECK_LIMIT_S:g} s") from None


def _check(engine: Engine, parse: Callable[[], Workflow]) -> Workflow:
    try:
        workflow = parse()
        # in a loop of its own: this runs in a thread
        asyncio.run(engine.validate(workflow.prompt("", {}), workflow.outputs))
    except WorkflowInvalid:
        raise
    except GraphError as error:
        raise WorkflowInvalid(str(error)) from None
    except BaseException as error:  # a third-party node's definition may do anything
        logger.error("A workflow cannot be checked:\n%s", trace_of(error))
        raise WorkflowInvalid(f"checking it failed with {type_name(error)}") from None
    return workflow
